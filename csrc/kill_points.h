/* kill_points.h - named points at every shared write, where a crash test can end the process.
 *
 * Empty by default. A build with -DSHMT_KILL_POINTS provides shmt_kill_point() and thereby a place to
 * die at each of them; the names are the vocabulary of docs/protocol.md. */
#ifndef SHMT_KILL_POINTS_H
#define SHMT_KILL_POINTS_H

#ifdef SHMT_KILL_POINTS
void shmt_kill_point(const char *name);
#define SHMT_KILL_POINT(name) shmt_kill_point(name)
#else
#define SHMT_KILL_POINT(name) ((void)0)
#endif

#endif
