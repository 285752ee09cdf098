/* libtxmsg: ids, and the words for statuses. */
#include "txmsg/txmsg.h"

#include "base/clock.h"
#include "base/uuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_ids(void **state) {
    int64_t before = clock_real_us() / 1000;
    struct uuid u;
    txmsg_id a = {""}, b = {""}, c;

    assert_int_equal(txmsg_id_make(&a), TXMSG_OK);
    assert_int_equal(txmsg_id_make(&b), TXMSG_OK);
    assert_string_not_equal(a.text, b.text);
    assert_int_equal(uuid_parse(bytes_str(a.text), &u), 0);
    assert_true(uuid_is_v7(&u));
    assert_in_range(uuid_v7_ms(&u), before, before + 60000);
    assert_int_equal(txmsg_id_parse(&c, "01A1FDA4-3e4e-7a28-aa69-48f54cbe73eb"), TXMSG_OK);
    assert_string_equal(c.text, "01a1fda4-3e4e-7a28-aa69-48f54cbe73eb");
}

static void test_wrong_ids(void **state) {
    static const char *const wrong[] = {
        "",
        "x",
        "01a1fda4-3e4e-4a28-aa69-48f54cbe73eb",
        "01a1fda43e4e7a28aa6948f54cbe73eb",
        "01a1fda4-3e4e-7a28-aa69-48f54cbe73eb0",
        "01a1fda4-3e4e-7a28-aa69-48f54cbe73e ",
    };
    txmsg_id id = {"kept"};

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(txmsg_id_parse(&id, wrong[i]), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_id_parse(&id, NULL), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_id_parse(NULL, wrong[0]), TXMSG_ERROR_INVALID);
    assert_int_equal(txmsg_id_make(NULL), TXMSG_ERROR_INVALID);
    assert_string_equal(id.text, "kept");
}

/* The random half of an id of a child is not that of the parent's next id, though both had the same pool of randomness. */
static void test_ids_after_fork(void **state) {
    txmsg_id mine, theirs = {""};
    int pipes[2], status;
    pid_t child;

    assert_int_equal(txmsg_id_make(&mine), TXMSG_OK);
    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) {
        bool sent = txmsg_id_make(&theirs) == TXMSG_OK && write(pipes[1], &theirs, sizeof(theirs)) == sizeof(theirs);
        _exit(sent ? 0 : 1);
    }
    assert_int_equal(txmsg_id_make(&mine), TXMSG_OK);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(read(pipes[0], &theirs, sizeof(theirs)), sizeof(theirs));
    assert_string_not_equal(mine.text + 15, theirs.text + 15);
    close(pipes[0]);
    close(pipes[1]);
}

static void test_words(void **state) {
    assert_string_equal(txmsg_status_name(TXMSG_OK), "OK");
    assert_string_equal(txmsg_status_name(TXMSG_UNKNOWN), "UNKNOWN");
    for (int s = TXMSG_ERROR_ADDRESS; s <= TXMSG_UNKNOWN; s++)
        assert_string_not_equal(txmsg_status_name(s), "?");
    assert_string_equal(txmsg_status_name(TXMSG_ERROR_ADDRESS - 1), "?");
    assert_string_equal(txmsg_status_name(TXMSG_UNKNOWN + 1), "?");
    assert_true(txmsg_version()[0] >= '0' && strchr(txmsg_version(), '.'));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ids), cmocka_unit_test(test_wrong_ids),
                                       cmocka_unit_test(test_ids_after_fork), cmocka_unit_test(test_words)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
