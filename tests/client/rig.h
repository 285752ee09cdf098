/* What the tests of libtxmsg-pq share: connections to the database of argv[1], ids, threads, waiting for a waiting one. */
#pragma once

#include "base/uuid.h"

#include <libpq-fe.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

extern const char *rig_dsn;

PGconn *rig_connect(void);
/* Runs it; a failure fails the test. */
void rig_sql(PGconn *db, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The first column of the first row as a number. */
long rig_number(PGconn *db, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A new id; `age_s` ago. */
const char *rig_id(char id[UUID_TEXT], int64_t age_s);
/* Returns once the backend waits for a lock. */
void rig_wait_blocked(PGconn *watch, int pid);

pthread_t rig_thread(void *(*fn)(void *), void *arg);
void rig_join(pthread_t t);
