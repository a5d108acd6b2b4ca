"""The stress finds what it is for: with one order, lock, bound or free taken out of the core, its sanitizer reports.

What ThreadSanitizer cannot find: an order that another one covers (B-PUT and B-SHARE alone, since every open also
acquires the ticket), and one between words that are all atomic (D-SEGMENT, E-JOIN, F-TICKET), since nothing plain races
there. Those are for the models (docs/model).
"""

from pathlib import Path

import pytest

from tests.stress.building import FOUND, Change, Form, build_changed, run

LOCK = "pthread_mutex_lock(&attachment->mutex);"
UNLOCK = "pthread_mutex_unlock(&attachment->mutex);"

RACES = {
    "A-READY: the version is stored without release": Change(
        "attachment.c", (("SHMT_LAYOUT_VERSION, memory_order_release)", "SHMT_LAYOUT_VERSION, memory_order_relaxed)"),)
    ),
    "A-READY: the header is read before its version": Change(
        "attachment.c", (("    /* SYNC A-READY */\n", "    found->magic = header->magic;\n"),)
    ),
    "B-SHARE: share stores word and ticket without release": Change(
        "tickets.c",
        (
            (
                "shmt_bit(attachment->index), memory_order_release);",
                "shmt_bit(attachment->index), memory_order_relaxed);",
            ),
            ("shmt_word(sequence, mask), memory_order_release)", "shmt_word(sequence, mask), memory_order_relaxed)"),
        ),
    ),
    "C-RELEASE: a bit goes out without release": Change(
        "reaping.c", (("after, memory_order_acq_rel,", "after, memory_order_relaxed,"),)
    ),
    "C-RELEASE: the writer harvests without acquire": Change(
        "writer.c",
        (
            (
                "atomic_load_explicit(&attachment->entries[entry].word, memory_order_acquire)",
                "atomic_load_explicit(&attachment->entries[entry].word, memory_order_relaxed)",
            ),
        ),
    ),
    "C-FINISHED: a thread of the pool counts its piece without release": Change(
        "copy_pool.c",
        (
            (
                "atomic_fetch_add(&p->finished, 1)",
                "atomic_fetch_add_explicit(&p->finished, 1, memory_order_relaxed)",
            ),
        ),
    ),
    "mutex: a lease ends without it": Change(
        "leases.c",
        (
            (
                f"{LOCK}\n    shmt_local *local = &attachment->locals[entry];",
                "shmt_local *local = &attachment->locals[entry];",
            ),
            (f"{UNLOCK}\n    shmt_drop", "shmt_drop"),
        ),
    ),
}

ERRORS = {
    ("heap-buffer-overflow", "spans outgrow their room"): Change(
        "leases.c", (("spans, room * sizeof *grown", "spans, room / 16 * sizeof *grown"),)
    ),
    ("LeakSanitizer", "the counts of an attachment are not freed"): Change(
        "leaving.c", (("    free(attachment->locals);\n", ""),)
    ),
    ("heap-use-after-free", "an attachment is freed before it is left"): Change(
        "leaving.c",
        (("    list_remove(attachment);\n", "    list_remove(attachment);\n    shmt_destroy(attachment);\n"),),
    ),
    ("out of bounds", "the list of free tickets begins one too high"): Change(
        "attachment.c", (("free_tickets[i] = (uint16_t)", "free_tickets[i + 1] = (uint16_t)"),)
    ),
}


def report_of(form: Form, change: Change, folder: Path) -> str:
    """What the sanitizer says at last; a race takes more than one try at times."""
    program = build_changed(form, change, folder)
    for seed in range(5):
        done = run(program, 8, 8, seed, 500)
        if done.returncode:
            return done.stderr if done.returncode == FOUND else f"exit status {done.returncode}: {done.stderr}"
    return "nothing"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", RACES)
def test_a_race_is_found(what: str, programs: dict[Form, Path], tmp_path: Path) -> None:
    assert "ThreadSanitizer: data race" in report_of("thread", RACES[what], tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("says", "what"), ERRORS)
def test_an_error_is_found(says: str, what: str, programs: dict[Form, Path], tmp_path: Path) -> None:
    assert says in report_of("address", ERRORS[says, what], tmp_path)
