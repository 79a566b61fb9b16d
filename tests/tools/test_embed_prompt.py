"""tools/embed_prompt.py on a tiny text encoder made here, equal to what diffusers does.

The words of the tiny vocabulary are single letters, so ids can be counted by hand.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ["!", "a</w>", "b</w>", "c</w>", START, END]
POSITIONS, WIDTH = 77, 24

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random CLIP text model and a tokenizer that pads with "!", as SD2.1's does."""
    root = tmp_path_factory.mktemp("sd")
    (root / "tokenizer").mkdir()
    files = {
        "vocab.json": {word: i for i, word in enumerate(WORDS)},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": POSITIONS,
            "bos_token": START,
            "eos_token": END,
            "unk_token": END,
            "pad_token": "!",
        },
    }
    for name, content in files.items():
        (root / "tokenizer" / name).write_text(json.dumps(content))
    (root / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        hidden_act="gelu",
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=0,
    )
    transformers.CLIPTextModel(config).save_pretrained(root / "text_encoder")
    return root


def run(folders, output, *flags, tokenizer=None):
    command = [sys.executable, str(ROOT / "tools" / "embed_prompt.py")]
    command += ["--text-encoder", str(folders / "text_encoder")]
    command += ["--tokenizer", str(tokenizer or folders / "tokenizer")]
    command += ["-o", str(output), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def hidden_state(folders, ids):
    """The embedding of these ids, padded with id 0, by the model alone."""
    model = transformers.CLIPTextModel.from_pretrained(folders / "text_encoder").eval()
    padded = torch.zeros(1, POSITIONS, dtype=torch.long)
    padded[0, : len(ids)] = torch.tensor(ids)
    with torch.no_grad():
        return model(padded)[0][0].numpy()


@pytest.mark.slow
def test_embedding_equals_the_encoder_on_the_padded_ids(folders, tmp_path):
    output = tmp_path / "prompt.npz"
    done = run(folders, output, "--positive", "a b c a", "--negative", "c")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["prompt.npz"]
    found = np.load(output, allow_pickle=False)
    expected = {"positive": [4, 1, 2, 3, 1, 5], "negative": [4, 3, 5]}
    for name, ids in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == (POSITIONS, WIDTH)
        np.testing.assert_allclose(found[name], hidden_state(folders, ids), atol=1e-5)
    assert str(found["text_positive"]) == "a b c a"
    assert str(found["text_negative"]) == "c"
    assert np.abs(found["positive"] - found["negative"]).max() > 0.1


@pytest.mark.slow
def test_negative_is_the_empty_text_by_default(folders, tmp_path):
    output = tmp_path / "prompt.npz"
    assert run(folders, output, "--positive", "a").returncode == 0
    found = np.load(output, allow_pickle=False)
    expected = hidden_state(folders, [4, 5])
    np.testing.assert_allclose(found["negative"], expected, atol=1e-5)


@pytest.mark.slow
def test_errors_are_one_line_and_leave_no_file(folders, tmp_path):
    output = tmp_path / "prompt.npz"
    missing = run(folders, output, tokenizer=tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "nowhere is not a folder" in missing.stderr.splitlines()[-1]
    long = run(folders, output, "--positive", "a " * 100)
    assert long.returncode == 1
    assert "102 tokens, 77 fit" in long.stderr.splitlines()[-1]
    assert not output.exists()
