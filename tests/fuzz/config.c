/*
 * The daemon's configuration from all of its sources. An input is a YAML file, or, behind a line "%", its environment
 * (lines NAME=value) and its command line (lines that begin with -), then the rest as the file.
 */
#include "txmsgd/config.h"

#include "base/mem.h"
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { WORDS_MAX = 32 };

static char *words[2][WORDS_MAX + 1]; /* environment, command line */
static int words_n[2];
static char path[64];

static void add(int which, const char *p, size_t n) {
    if (words_n[which] == WORDS_MAX)
        return;
    words[which][words_n[which]++] = mem_strndup(p, n);
    words[which][words_n[which]] = NULL;
}

static struct bytes split(struct bytes in) {
    const char *p = (const char *)in.p, *end = p + in.n;
    if (in.n < 2 || memcmp(p, "%\n", 2) != 0)
        return in;
    for (p += 2; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        const char *stop = nl ? nl : end;
        if (*p == '%')
            return bytes_of(nl ? nl + 1 : end, nl ? (size_t)(end - nl - 1) : 0);
        add(*p == '-', p, (size_t)(stop - p));
        p = nl ? nl + 1 : end;
    }
    return BYTES_NULL;
}

static int file_of(struct bytes text) {
    int fd = memfd_create("config", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && write(fd, text.p ? (const void *)text.p : "", text.n) == (ssize_t)text.n);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return fd;
}

static void use(struct conf *c, const struct config *target) {
    struct errmsg e = ERRMSG_NULL;
    struct limits l;
    struct buf out;
    buf_init(&out, 1 << 20);
    conf_show(c, &out);
    FUZZ_CHECK(!buf_error(&out));
    FUZZ_CHECK(!target->dsn[0] || strstr(buf_str(&out), "dsn = ***")); /* a secret */
    buf_deinit(&out);
    if (config_check(target, &e) == 0)
        config_limits(target, &l);
    else
        FUZZ_CHECK(e.text[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char name[] = "fuzz", flag[] = "--config";
    struct errmsg e = ERRMSG_NULL;
    struct config target;
    words_n[0] = words_n[1] = 0;
    words[0][0] = NULL;
    add(1, name, strlen(name));
    add(1, flag, strlen(flag));
    add(1, "", 0);
    struct bytes text = split(bytes_of(data, size));
    int fd = file_of(text);
    mem_free(words[1][2]);
    words[1][2] = mem_strdup(path);
    memset(&target, 0, sizeof(target));
    struct conf *c = conf_load(config_options, &target, words_n[1], words[1], words[0], &e);
    if (c)
        use(c, &target);
    else
        FUZZ_CHECK(e.text[0] && !target.dsn);
    conf_free(c);
    close(fd);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < words_n[k]; i++)
            mem_free(words[k][i]);
    return 0;
}
