/* The verdicts of a program of scenes, for the one file that plays them: EXPECT() within a scene, tap_report() at its end. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

static int tap_tests, tap_failures;
static bool tap_good = true;

static inline void tap_expect(bool ok, const char *what) {
    if (!ok)
        printf("# not so: %s\n", what);
    tap_good &= ok;
}
#define EXPECT(cond) tap_expect(cond, #cond)

static inline void tap_report(const char *name) {
    tap_failures += !tap_good;
    printf("%s %d - %s\n", tap_good ? "ok" : "not ok", ++tap_tests, name);
    fflush(stdout);
    tap_good = true;
}

/* The exit code. */
static inline int tap_end(void) {
    printf("1..%d\n", tap_tests);
    return tap_failures ? 1 : 0;
}
