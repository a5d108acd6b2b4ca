/* status.h - what every function of the core answers; one table (python/errors.c) maps it to exceptions. */
#ifndef SHMT_STATUS_H
#define SHMT_STATUS_H

typedef enum shmt_status {
    SHMT_OK = 0,
    SHMT_FULL,          /* no room now: grow, wait or go inline */
    SHMT_NOT_FOUND,     /* the address lies in no block that this process holds */
    SHMT_NOT_JOINED,    /* a reader is not (or no longer) in this ring's table */
    SHMT_NO_TICKET,     /* every ticket of this process is in flight */
    SHMT_UNMAPPABLE,    /* the reader said that it cannot map a segment */
    SHMT_NO_ENTRY,      /* every entry of the block table is live: no block until one ends */
    SHMT_STALE,         /* generation gone, or nobody holds the block any more */
    SHMT_BAD_HANDLE,    /* names something that cannot exist in this ring */
    SHMT_NEED_SEGMENT,  /* the block lies in a segment not yet mapped here */
    SHMT_BUSY,          /* a lock byte is held by another process */
    SHMT_GONE,          /* the ring's name was unlinked or its writer is dead */
    SHMT_NO_INDEX,      /* all reader indices are taken */
    SHMT_NOT_READY,     /* the creator has not stored the version yet */
    SHMT_MISMATCH,      /* another layout version or signature */
    SHMT_CORRUPT,       /* sizes or fields contradict each other */
    SHMT_DENIED,        /* another owner, or open to others */
    SHMT_UNSEALED,      /* handed over as anonymous, and its size may still change */
    SHMT_TIMEOUT,
    SHMT_CLOSED,
    SHMT_FORKED,        /* the object was made before this process was forked */
    SHMT_NO_MEMORY,     /* private memory */
    SHMT_SYSTEM,        /* errno says what */
} shmt_status;

#endif
