"""Write prompt.npz, the fixed prompt embedding, with a local text encoder ([prompt]).

    python tools/embed_prompt.py --text-encoder SD21/text_encoder \
        --tokenizer SD21/tokenizer -o prompt.npz

Writes `positive` and `negative`, float32 [77, width], and their texts as
`text_positive` and `text_negative`. The embedding is the encoder's last hidden state
after its final norm, as diffusers feeds it to the UNet. SD2.1 needs OpenCLIP-H's
penultimate layer; its published text encoder has 23 of 24 layers, so last is right.
"""

import argparse
import os
from pathlib import Path

import numpy as np

POSITIVE = "a sharp, detailed, high-resolution photograph"
NEGATIVE = ""  # the unconditional direction of classifier-free guidance


def parse() -> argparse.Namespace:
    about = "Write prompt.npz, the fixed prompt embedding."
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--text-encoder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR")
    parser.add_argument("--positive", default=POSITIVE, metavar="TEXT")
    parser.add_argument("--negative", default=NEGATIVE, metavar="TEXT")
    parser.add_argument("-o", "--output", type=Path, default=Path("prompt.npz"))
    args = parser.parse_args()
    for folder in (args.text_encoder, args.tokenizer):
        if not folder.is_dir():
            parser.error(f"{folder} is not a folder. Give a local diffusers component.")
    if args.output.suffix != ".npz":
        parser.error(f"{args.output} does not end in .npz. Rename the output.")
    return args


def embed(text: str, tokenizer, encoder) -> np.ndarray:
    """Last hidden state [max positions, width] of one text, padded by the tokenizer."""
    length = encoder.config.max_position_embeddings
    token_count = len(tokenizer(text).input_ids)
    if token_count > length:
        raise SystemExit(
            f"{text[:40]!r}... is {token_count} tokens, {length} fit. Shorten."
        )
    tokens = tokenizer(
        text, padding="max_length", max_length=length, return_tensors="pt"
    )
    return encoder(tokens.input_ids).last_hidden_state[0].detach().numpy()


def main() -> None:
    args = parse()
    import torch  # here, so that --help and argument errors are fast
    from transformers import AutoTokenizer, CLIPTextModel

    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        args.text_encoder, local_files_only=True, dtype=torch.float32
    ).eval()
    arrays = {"text_positive": args.positive, "text_negative": args.negative}
    for name, text in (("positive", args.positive), ("negative", args.negative)):
        arrays[name] = embed(text, tokenizer, encoder)
    partial = args.output.with_suffix(".tmp.npz")
    np.savez(partial, **arrays)
    os.replace(partial, args.output)
    print(f"{args.output}: {arrays['positive'].shape} for {args.positive!r}")


if __name__ == "__main__":
    main()
