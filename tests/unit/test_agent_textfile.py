"""The textfile in a folder that others may write to."""

from __future__ import annotations

import os

from assay_agent.metrics import textfile


def test_what_lies_in_a_textfiles_way_is_never_written_to(tmp_path):
    """The folder of textfiles may be open to others."""
    theirs = tmp_path / "spool"
    theirs.write_text("not metrics")
    path, fresh = tmp_path / "assay.prom", tmp_path / ".assay.prom.new"
    for put in (lambda: fresh.symlink_to(theirs), lambda: os.mkfifo(fresh)):
        put()
        textfile.replace(str(path), ["a 1\n"])
        assert path.read_text() == "a 1\n"
        assert not path.is_symlink()
        assert theirs.read_text() == "not metrics"
        assert not fresh.exists()
