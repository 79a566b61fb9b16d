"""The table of formats in docs/weights.md: each claim names the test that holds it.

`python tests/weights/test_formats.py` writes the table into the page.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "weights.md"
BEGIN, END = "<!-- formats: tests/weights/test_formats.py -->\n", "<!-- end -->\n"
CONVERT = "tests/weights/test_convert.py::"
LORA = "tests/weights/foreign/test_lora.py::"
ONE_FILE = "tests/weights/test_one_file.py::"
AVERAGES = "tests/weights/foreign/test_averages.py::"
CHOICES = "tests/weights/test_choices.py::"
EXPORT = "tests/weights/test_export.py::"
LORA_BACK = CONVERT + "test_lora_comes_back_bit_for_bit_beside_its_base"
PEFT_MERGE = CONVERT + "test_merge_is_pefts_own_merge"
LDM_BACK = CONVERT + "test_ldm_checkpoints_come_back_bit_for_bit"


@dataclass(frozen=True)
class Format:
    """A row: what the format is, and the tests of reading, writing, merging, equality.

    Attributes:
        equal: (what it is equal to, the test that compares), "" where nothing is.
    """

    name: str
    read: str = ""
    written: str = ""
    merged: str = ""
    equal: tuple[str, str] = ("", "")

    def tests(self) -> list[str]:
        return [t for t in (self.read, self.written, self.merged, self.equal[1]) if t]


FORMATS = [
    Format(
        "component folder of diffusers or transformers: UNet, VAE, DINOv2",
        CONVERT + "test_component_folders_come_back_bit_for_bit",
        "tests/weights/foreign/test_component_folder.py"
        "::test_folders_written_by_us_load_in_the_libraries",
        equal=(
            "the library's output; bit for bit in both directions",
            "tests/weights/foreign/test_component_folder.py"
            "::test_loaded_weights_compute_what_the_library_computes",
        ),
    ),
    Format(
        "pipeline folder of diffusers, with its scheduler (`--to diffusers`)",
        CHOICES + "test_the_schedule_goes_back_as_it_came",
        EXPORT + "test_the_libraries_load_it_without_a_word",
        equal=(
            "`DiffusionPipeline.from_pretrained` restores as the exported README.md",
            EXPORT + "test_the_program_in_the_readme_is_our_restorer",
        ),
    ),
    Format(
        "`unet_ema/` of diffusers' training scripts",
        AVERAGES + "test_the_folder_unet_ema_goes_before_unet",
        equal=(
            "the EMA arrays",
            AVERAGES + "test_the_folder_unet_ema_goes_before_unet",
        ),
    ),
    Format(
        "LDM file: SD 1, SD 2, UNet, autoencoder, EMA (`--to ldm`)",
        LDM_BACK,
        ONE_FILE + "test_an_ldm_file_comes_back_equal",
        equal=(
            "diffusers' `from_single_file`, bit for bit",
            ONE_FILE + "test_diffusers_reads_the_ldm_file",
        ),
    ),
    Format(
        "training checkpoint with EMA weights (BasicSR, timm, torch, ema-pytorch)",
        AVERAGES + "test_averages_of_training_checkpoints",
        equal=(
            "the EMA arrays",
            AVERAGES + "test_averages_of_training_checkpoints",
        ),
    ),
    Format(
        "DINOv2's original file",
        CONVERT + "test_a_dinov2_hub_file_is_the_transformers_folder",
        equal=(
            "the folder of transformers",
            CONVERT + "test_a_dinov2_hub_file_is_the_transformers_folder",
        ),
    ),
    Format(
        "LPIPS: torchvision's trunk and heads, or the package's state dict",
        CONVERT + "test_lpips_of_both_packages",
        CONVERT + "test_lpips_of_both_packages",
        equal=("bit for bit", CONVERT + "test_lpips_of_both_packages"),
    ),
    Format(
        "DISTS: trunk and weights.pt, or the package's state dict",
        CONVERT + "test_dists_of_two_files_and_of_one",
        CONVERT + "test_dists_of_two_files_and_of_one",
        equal=("bit for bit", CONVERT + "test_dists_of_two_files_and_of_one"),
    ),
    Format(
        "LoRA folder of PEFT (`--to peft`)",
        LORA_BACK,
        LORA + "test_exports_load_in_peft_and_diffusers_and_give_the_same_output",
        PEFT_MERGE,
        (
            "PEFT's output and PEFT's own merge",
            LORA + "test_a_peft_folder_gives_pefts_output_and_goes_back_bit_for_bit",
        ),
    ),
    Format(
        "rsLoRA of PEFT; a LoRA without a stored alpha (`--lora-alpha`)",
        CHOICES + "test_rslora_and_a_lost_alpha",
        merged=CHOICES + "test_rslora_and_a_lost_alpha",
        equal=("alpha / sqrt(rank)", CHOICES + "test_rslora_and_a_lost_alpha"),
    ),
    Format(
        "LoRA file of diffusers, two spellings",
        LORA_BACK,
        LORA + "test_exports_load_in_peft_and_diffusers_and_give_the_same_output",
        PEFT_MERGE,
        ("the PEFT folder", LORA + "test_a_diffusers_file_is_the_peft_folder"),
    ),
    Format(
        "LoRA file of sd-scripts (kohya), two spellings (`--to kohya`)",
        LORA_BACK,
        ONE_FILE + "test_adapters_as_a_file_of_sd_scripts",
        PEFT_MERGE,
        (
            "diffusers' fused weights",
            ONE_FILE + "test_adapters_as_a_file_of_sd_scripts",
        ),
    ),
    Format(
        "LoHa, LoKr, DoRA, full differences (LyCORIS)",
        CHOICES + "test_loha_and_dora_are_merged_by_their_formulas",
        merged=CHOICES + "test_loha_and_dora_are_merged_by_their_formulas",
        equal=(
            "their formulas",
            CHOICES + "test_loha_and_dora_are_merged_by_their_formulas",
        ),
    ),
    Format(
        "OSEDiff's dict of adapters for UNet and autoencoder",
        "tests/weights/foreign/test_osediff.py"
        "::test_the_dict_is_merged_into_both_networks",
        merged="tests/weights/foreign/test_osediff.py"
        "::test_the_dict_is_merged_into_both_networks",
        equal=(
            "W + 8/rank up down",
            "tests/weights/foreign/test_osediff.py"
            "::test_the_dict_is_merged_into_both_networks",
        ),
    ),
    Format(
        "weights folder (`--to orbax`)",
        "tests/weights/test_folder.py::test_round_trip",
        "tests/weights/test_folder.py::test_round_trip",
        PEFT_MERGE,
        (
            "what plain Orbax reads, bit for bit",
            CHOICES + "test_plain_orbax_reads_a_component_without_this_library",
        ),
    ),
    Format(
        "single safetensors file in our layout (`--to safetensors`)",
        ONE_FILE + "test_our_names_hold_all_that_the_folder_says",
        ONE_FILE + "test_our_names_hold_all_that_the_folder_says",
        equal=(
            "what the safetensors library reads, bit for bit",
            ONE_FILE + "test_our_names_hold_all_that_the_folder_says",
        ),
    ),
    Format(
        "checkpoint of `gendr train` (`WORKDIR --step N`)",
        "tests/train/test_checkpoint_weights.py"
        "::test_every_checkpoint_becomes_what_training_would_have_written",
        equal=(
            "the weights that training writes, bit for bit",
            "tests/train/test_checkpoint_weights.py"
            "::test_every_checkpoint_becomes_what_training_would_have_written",
        ),
    ),
]


def table() -> str:
    """The rows as Markdown."""
    lines = ["| format | in | out | merged | equal to |", "|---|---|---|---|---|"]
    for row in FORMATS:
        marks = ["yes" if t else "" for t in (row.read, row.written, row.merged)]
        lines.append(f"| {' | '.join([row.name, *marks, row.equal[0]])} |")
    return "\n".join(lines) + "\n"


def in_page(text: str) -> str:
    return text.split(BEGIN)[1].split(END)[0]


def test_the_page_has_this_table():
    found = in_page(PAGE.read_text("utf-8"))
    assert found == table(), "stale: python tests/weights/test_formats.py"


def test_every_claim_has_its_test():
    for row in FORMATS:
        assert row.tests()
        for test in row.tests():
            file, name = test.split("::")
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
            assert name in functions, test


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, "utf-8")
