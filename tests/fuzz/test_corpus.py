"""The fuzzer's corpus, gone through without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import target

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    (tmp_path / "rootfs").mkdir()
    return str(tmp_path)


def test_every_configuration_of_the_corpus_is_planned_or_refused_in_one_line(bundle: str) -> None:
    files = sorted(CORPUS.iterdir())
    planned = [path.name for path in files if target.examine(path.read_bytes(), bundle)]
    # Both ways must be gone, or the corpus examines nothing.
    assert len(planned) >= 5
    assert len(files) - len(planned) >= 20


def test_what_is_no_error_of_ours_is_found(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(CORPUS.glob("seed-*")).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise ValueError("not one of ours")

    monkeypatch.setattr(target, "validate", fail)
    with pytest.raises(ValueError, match="not one of ours"):
        target.examine(whole, bundle)
