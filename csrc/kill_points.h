/* kill_points.h - named points behind every shared write, where a crash test ends the process.
 *
 * In an ordinary build they are nothing. SHMTRANSPORT_KILL_POINTS=1 before setup.py makes a core in which each is a
 * call (kill_points.c); tests/crash/ drives it. The names are the vocabulary of docs/protocol.md. */
#ifndef SHMT_KILL_POINTS_H
#define SHMT_KILL_POINTS_H

#ifdef SHMT_KILL_POINTS

#include <stdint.h>

/* These two are visible to dlsym(3): tests call them through ctypes. */
#define SHMT_FOR_TESTS __attribute__((visibility("default")))

/* From now on each passage of a point, by any thread, appends "name\n" to `record`, and passage number `fatal` (from 1;
 * 0: none) appends "!name\n" and ends the process by SIGKILL. With `record` -1 points are passed in silence. */
SHMT_FOR_TESTS void shmt_kill_points_arm(int record, uint64_t fatal);

/* Keeps errno. */
SHMT_FOR_TESTS void shmt_kill_point(const char *name);

#define SHMT_KILL_POINT(name) shmt_kill_point(name)

#else
#define SHMT_KILL_POINT(name) ((void)0)
#endif

#endif
