/* threads.h - threads of this library's own in somebody else's process. */
#ifndef SHMT_THREADS_H
#define SHMT_THREADS_H

#include <pthread.h>

/* As pthread_create(), of a thread that blocks all signals: they belong to the application's threads. */
int shmt_thread_start(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context);

#endif
