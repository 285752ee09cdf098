/* What the tests of libtxmsg-pq share: connections to the database of the command line, ids, threads, waiting for a waiting one. */
#pragma once

#include "txmsg/pq.h"

#include "base/uuid.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Made anew for each test: two who work, and one who looks. */
extern PGconn *a, *b, *watch;
extern struct txmsg_pq_error err;

/* The program `NAME DSN`, of an empty database: `create` makes what all tests need, `fresh` what each has of its own. */
int rig_run(int argc, char **argv, const struct CMUnitTest *tests, size_t n, void (*create)(PGconn *db),
            void (*fresh)(void));
int rig_setup(void **state);
int rig_teardown(void **state);
#define RIG_TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_setup, rig_teardown)

PGconn *rig_connect(void);
/* Runs it; a failure fails the test. */
void rig_sql(PGconn *db, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The first column of the first row as a number. */
long rig_number(PGconn *db, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A new id; `age_s` ago. */
const char *rig_id(char id[UUID_TEXT], int64_t age_s);
/* Returns once the backend waits for a lock. */
void rig_wait_blocked(PGconn *db, int pid);

pthread_t rig_thread(void *(*fn)(void *), void *arg);
void rig_join(pthread_t t);
