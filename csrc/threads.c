#define _GNU_SOURCE
#include "threads.h"

#include <signal.h>

int shmt_thread_start(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* a new thread inherits the mask */
    int error = pthread_create(thread, attributes, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
