/*
 * The narrow gate between what strangers send and what becomes a decision: whatever is not exactly the contract is no
 * answer. A proxy's page, an answer for another id, a word in lower case may all look like a verdict to a lenient
 * reader, and a guess here loses a message or sends one that was rolled back. Members that we do not know are
 * tolerated, duplicates are not.
 */
#include "checkback/answer.h"

#include "base/clock.h"
#include "base/json.h"

const char *answer_name(enum answer_verdict v) {
    static const char *const names[ANSWER_VERDICTS] = {"unreachable", "unknown", "committed", "rolled_back"};
    return names[v];
}

static void no_answer(struct answer *a, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void no_answer(struct answer *a, const char *fmt, ...) {
    va_list args;

    a->verdict = ANSWER_UNREACHABLE;
    va_start(args, fmt);
    vsnprintf(a->why, sizeof(a->why), fmt, args);
    va_end(args);
}

/* What the two forms have in common. Only an UNKNOWN is asked about again. */
static void read_again(bool at, bool after, struct answer *ret) {
    if (at && after)
        no_answer(ret, "answer with two times to ask again");
    else if ((at || after) && ret->verdict != ANSWER_UNKNOWN)
        no_answer(ret, "answer with a decision and a time to ask again");
}

static bool word_is(const json_t *j, const char *word) {
    return bytes_eq_str(bytes_of(json_string_value(j), json_string_length(j)), word);
}

static const char *text_of(const json_t *j) {
    const char *s = json_string_value(j);
    return s && strlen(s) == json_string_length(j) ? s : "";
}

static void read_json_again(const json_t *j, struct answer *ret) {
    const json_t *at = json_object_get(j, "askAgainAt"), *after = json_object_get(j, "askAgainAfter");

    at = json_is_null(at) ? NULL : at;
    after = json_is_null(after) ? NULL : after;
    read_again(at, after, ret);
    if (ret->verdict != ANSWER_UNKNOWN)
        return;
    if (at && (clock_parse(text_of(at), &ret->again_at_us) < 0 || ret->again_at_us <= 0))
        no_answer(ret, "answer with an askAgainAt that is not a time by RFC 3339");
    if (after && text_duration_ms(text_of(after), &ret->again_after_ms) < 0)
        no_answer(ret, "answer with an askAgainAfter that is not a duration such as \"90s\"");
}

static void read_object(const json_t *j, const struct uuid *tx, struct answer *ret) {
    const json_t *bodies = json_object_get(j, "bodies");
    const json_t *id = json_object_get(j, "transactionId"), *decision = json_object_get(j, "decision");
    struct uuid got;

    if (!json_is_string(id) || uuid_parse(bytes_of(json_string_value(id), json_string_length(id)), &got) < 0)
        no_answer(ret, "answer without a transactionId");
    else if (!uuid_eq(&got, tx))
        no_answer(ret, "answer for another transaction");
    else if (!json_is_string(decision))
        no_answer(ret, "answer without a decision");
    else if (json_array_size(bodies) || (bodies && !json_is_array(bodies) && !json_is_null(bodies)))
        no_answer(ret, "answer with bodies that nothing was declared to wait for");
    else if (word_is(decision, "COMMITTED"))
        ret->verdict = ANSWER_COMMITTED;
    else if (word_is(decision, "ROLLED_BACK"))
        ret->verdict = ANSWER_ROLLED_BACK;
    else if (word_is(decision, "UNKNOWN"))
        ret->verdict = ANSWER_UNKNOWN;
    else
        no_answer(ret, "answer with an unknown decision");
    if (ret->verdict != ANSWER_UNREACHABLE)
        read_json_again(j, ret);
}

void answer_read(const struct web_response *resp, const struct uuid *tx, struct answer *ret) {
    struct errmsg e = ERRMSG_NULL;

    *ret = (struct answer){.verdict = ANSWER_UNREACHABLE, .again_after_ms = -1};
    if (resp->result != WEB_ANSWERED) {
        no_answer(ret, "%s", resp->error);
        return;
    }
    if (resp->status != 200) {
        no_answer(ret, "HTTP status %d", resp->status);
        return;
    }
    CLEANUP_JSON json_t *j = json_parse(resp->body, &e);
    if (!j)
        no_answer(ret, "%s%s", errno == ENOMEM ? "" : "not JSON: ", e.text);
    else if (!json_is_object(j))
        no_answer(ret, "not a JSON object");
    else
        read_object(j, tx, ret);
}

/* The ranges of the well-known types. */
static void read_message_again(const Txmsg__V1__CheckResponse *m, struct answer *ret) {
    const Google__Protobuf__Timestamp *at = m->ask_again_at;
    const Google__Protobuf__Duration *after = m->ask_again_after;

    read_again(at, after, ret);
    if (ret->verdict != ANSWER_UNKNOWN)
        return;
    if (at && (at->seconds <= 0 || at->seconds > 253402300799 || at->nanos < 0 || at->nanos > 999999999))
        no_answer(ret, "answer with an ask_again_at that is not a time");
    else if (at)
        ret->again_at_us = clock_us(at->seconds, at->nanos);
    if (after && (after->seconds < 0 || after->seconds > 315576000000 || after->nanos < 0 || after->nanos > 999999999))
        no_answer(ret, "answer with an ask_again_after that is not a duration");
    else if (after)
        ret->again_after_ms = after->seconds * 1000 + after->nanos / 1000000;
}

void answer_message(const Txmsg__V1__CheckResponse *m, const struct uuid *tx, struct answer *ret) {
    struct uuid got;

    *ret = (struct answer){.verdict = ANSWER_UNREACHABLE, .again_after_ms = -1};
    if (!m || uuid_parse(bytes_str(m->transaction_id), &got) < 0)
        no_answer(ret, "answer without a transaction_id");
    else if (!uuid_eq(&got, tx))
        no_answer(ret, "answer for another transaction");
    else if (m->n_bodies)
        no_answer(ret, "answer with bodies that nothing was declared to wait for");
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_COMMITTED)
        ret->verdict = ANSWER_COMMITTED;
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_ROLLED_BACK)
        ret->verdict = ANSWER_ROLLED_BACK;
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNKNOWN)
        ret->verdict = ANSWER_UNKNOWN;
    else
        no_answer(ret, "answer without a decision");
    if (ret->verdict != ANSWER_UNREACHABLE)
        read_message_again(m, ret);
}
