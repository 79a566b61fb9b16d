"""The Gradio page: file upload, settings, before/after slider, download."""

import time
from typing import Any

import gradio as gr

from gendr_jax.demo.engine import Engine
from gendr_jax.errors import GendrError

TILES = {"automatic": "auto", "256": 256, "512": 512, "1024": 1024, "none": 0}
SYSTEM_FONTS = ["system-ui", "Helvetica", "Arial", "sans-serif"]
TITLE = "# GenDR\nDrop a photograph, and drag the line to compare."


def build(engine: Engine) -> gr.Blocks:
    """The page for an engine."""
    with gr.Blocks(title="GenDR", analytics_enabled=False) as page:
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(scale=1):
                source = gr.File(
                    label="Photograph",
                    file_types=[".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"]
                    + [".avif", ".bmp", ".gif", ".ppm"],
                    elem_id="photograph",
                )
                settings = _settings()
                start = gr.Button(
                    "Restore", variant="primary", interactive=False, elem_id="restore"
                )
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before | after",
                    type="filepath",
                    interactive=False,
                    buttons=[
                        "fullscreen"
                    ],  # the result has a download button of its own
                    elem_id="slider",
                )
                message = gr.Markdown(elem_id="said")
                file = gr.DownloadButton(
                    "Download", interactive=False, elem_id="download"
                )

        def restore(
            path: str,
            scale: float,
            strength: float,
            tile: str,
            progress: Any = gr.Progress(),  # noqa: B008
        ) -> tuple[Any, str, Any]:
            begin = time.perf_counter()
            try:
                result = engine.run(
                    path,
                    scale=scale,
                    tile=TILES[tile],
                    strength=strength,
                    progress=lambda fraction, text: progress(fraction, desc=text),
                )
            except (GendrError, OSError, MemoryError) as error:
                text = engine.public(str(error), path) or "Memory is exhausted."
                raise gr.Error(text, print_exception=False) from error
            seconds = time.perf_counter() - begin
            return (
                (str(result.before), str(result.after)),
                f"{result.text}, {seconds:.1f} s",
                gr.DownloadButton(value=str(result.file), interactive=True),
            )

        def changed(path: str | None) -> tuple[Any, None, str, Any]:
            """Clear the result when another photograph is chosen."""
            empty = gr.DownloadButton(value=None, interactive=False)
            return gr.Button(interactive=path is not None), None, "", empty

        source.change(changed, [source], [start, slider, message, file])
        start.click(restore, [source, *settings], [slider, message, file])
    return page


def _settings() -> list[Any]:
    """Scale, strength and tile."""
    scale = gr.Slider(1, 8, 4, step=0.5, label="Times larger")
    strength = gr.Slider(
        0,
        1,
        1,
        step=0.05,
        label="Strength",
        info="0 is plain enlargement",
    )
    tile = gr.Dropdown(
        list(TILES),
        value="automatic",
        label="Tile",
        info="Pixels done at once; less needs less memory",
    )
    return [scale, strength, tile]


def serve(page: gr.Blocks, *, host: str, port: int, folder: str) -> None:
    """Serve the page until Ctrl-C; it may read files below `folder`."""
    theme = gr.themes.Default(font=SYSTEM_FONTS, font_mono=["monospace"])
    page.queue(default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        allowed_paths=[folder],
        theme=theme,
        share=False,
        quiet=True,
        footer_links=[],
    )
