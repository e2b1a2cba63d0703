"""`wfm data make` from the command line."""

from wfm_ar.cli import main


def test_make_refuses_what_it_did_not_make(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for more in ([], ["overwrite=true"]):
        assert main(["data", "make", f"out={tmp_path}", "episodes=1", *more]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"] and (tmp_path / "mine.txt").read_text() == "mine"
