/* state_view.h - a ring's shared state as Python tuples, be it mapped by an attachment or a copy of it. */
#ifndef SHMT_STATE_VIEW_H
#define SHMT_STATE_VIEW_H

#include "python.h"

/* Where the state lies. What a reader may overwrite (layout.h) is believed for these tuples only. */
typedef struct shmt_state {
    const shmt_header *header;
    const shmt_row *rows;
    const _Atomic uint64_t *segment_nbytes;
    const shmt_entry *entries;
    uint32_t entries_length;
    const shmt_file *file; /* whose lock bytes say who is alive */
} shmt_state;

/* (ring id, backing, entries, capacity, ordinary segment, created_ns, (bytes of each segment, ...)). */
PyObject *shmt_describe_identity(const shmt_state *state);

/* A list of Row: every signed row, and those whose lock byte is held. */
PyObject *shmt_describe_rows(const shmt_state *state);

/* A list of Block: every leased one. */
PyObject *shmt_describe_blocks(const shmt_state *state);

/* Functions of the module. */
PyObject *shmt_core_look(PyObject *module, PyObject *arguments);
PyObject *shmt_core_held(PyObject *module, PyObject *arguments);

#endif
