/* What a check endpoint may send: nothing but the exact contract is a verdict. */
#include "checkback/answer.h"
#include "fuzz.h"

#include <string.h>

#define TX "019b76da-0000-7000-8000-000000000001"

static bool holds(struct bytes in, const char *word) {
    return memmem(in.p, in.n, word, strlen(word)) != NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct uuid tx;
    struct answer a;
    FUZZ_CHECK(uuid_parse(BYTES_LIT(TX), &tx) == 0);
    unsigned choice = fuzz_choice(&data, &size);
    struct web_response r = {.result = choice & 1 ? WEB_BROKEN : WEB_ANSWERED,
                             .status = choice & 2 ? 404 : 200,
                             .body = bytes_of(data, size),
                             .error = "cut"};
    answer_read(&r, &tx, &a);
    FUZZ_CHECK(!a.bodies || a.verdict == ANSWER_COMMITTED);
    for (uint32_t i = 0; a.bodies && i < a.bodies->n; i++)
        FUZZ_CHECK(a.bodies->list[i].n < LIMIT_MESSAGES_HARD && a.bodies->list[i].body.n <= size);
    answer_end(&a);
    FUZZ_CHECK(memchr(a.why, 0, sizeof(a.why)) && answer_name(a.verdict));
    if (a.verdict == ANSWER_UNREACHABLE) {
        FUZZ_CHECK(a.why[0]);
        return 0;
    }
    FUZZ_CHECK(a.why[0] == 0);
    FUZZ_CHECK(r.result == WEB_ANSWERED && r.status == 200);
    /* Escapes may write a word in other bytes; what is plain must be there as it is. */
    FUZZ_CHECK(holds(r.body, "\\u") || holds(r.body, answer_name(a.verdict)) ||
               holds(r.body, a.verdict == ANSWER_COMMITTED     ? "\"COMMITTED\""
                             : a.verdict == ANSWER_ROLLED_BACK ? "\"ROLLED_BACK\""
                                                               : "\"UNKNOWN\""));
    return 0;
}
