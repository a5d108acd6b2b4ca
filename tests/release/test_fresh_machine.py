"""docs/fresh-machine.md is of the steps that there are; `make fresh-machine` does them and takes minutes."""

import pytest

from tests.release.fresh_machine import DOCUMENT, STEPS, Step, shown, written


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.command)
def test_the_document_shows_every_step(step: Step) -> None:
    assert f"{step.sentence}\n\n```console\n{shown(step)}\n" in DOCUMENT.read_text()


def test_a_step_is_a_sentence_and_what_a_terminal_shows() -> None:
    text = written({Step("One.", "echo 1"): "1", Step("Nothing.", "true"): ""})
    assert text.endswith("\n\nOne.\n\n```console\n$ echo 1\n1\n```\n\nNothing.\n\n```console\n$ true\n```\n")
