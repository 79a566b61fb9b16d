"""tools/weak_scaling.py: help and wrong usage; compiling needs the TPU's compiler."""

from tools import weak_scaling


def test_help_is_the_text_of_the_tool(capsys):
    assert weak_scaling.main(["--help"]) == 0
    assert "--chips 8,64,512" in capsys.readouterr().out


def test_wrong_usage_is_one_line(capsys):
    assert weak_scaling.main([]) == 2
    error = capsys.readouterr().err
    assert error.startswith("weak_scaling: error: --config is missing")
    assert len(error.splitlines()) == 1
