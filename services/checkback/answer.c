/*
 * The narrow gate between what strangers send and what becomes a decision: whatever is not exactly the contract is no
 * answer. A proxy's page, an answer for another id, a word in lower case may all look like a verdict to a lenient
 * reader, and a guess here loses a message or sends one that was rolled back. Members that we do not know are
 * tolerated, duplicates are not.
 */
#include "checkback/answer.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/json.h"

const char *answer_name(enum answer_verdict v) {
    static const char *const names[ANSWER_VERDICTS] = {"unreachable", "unknown", "committed", "rolled_back"};
    return names[v];
}

void answer_end(struct answer *a) {
    mem_free(TAKE(a->bodies));
}

void answer_refuse(struct answer *a, const char *fmt, ...) {
    va_list args;

    answer_end(a);
    a->verdict = ANSWER_UNREACHABLE;
    va_start(args, fmt);
    vsnprintf(a->why, sizeof(a->why), fmt, args);
    va_end(args);
}

/* What the two forms have in common. Only an UNKNOWN is asked about again. */
static void read_again(bool at, bool after, struct answer *ret) {
    if (at && after)
        answer_refuse(ret, "answer with two times to ask again");
    else if ((at || after) && ret->verdict != ANSWER_UNKNOWN)
        answer_refuse(ret, "answer with a decision and a time to ask again");
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
        answer_refuse(ret, "answer with an askAgainAt that is not a time by RFC 3339");
    if (after && text_duration_ms(text_of(after), &ret->again_after_ms) < 0)
        answer_refuse(ret, "answer with an askAgainAfter that is not a duration such as \"90s\"");
}

/* --- bodies --- */

static void keep_bodies(const struct msg_body *list, size_t n, struct answer *ret) {
    int r = ret->verdict == ANSWER_COMMITTED ? tx_bodies_new(list, (uint32_t)n, &ret->bodies) : 0;

    if (ret->verdict != ANSWER_COMMITTED)
        answer_refuse(ret, "answer with bodies that is not COMMITTED");
    else if (r != 0)
        answer_refuse(ret, r > 0 ? "answer with two bodies for one message" : "out of memory");
}

/* {"n": 0, "body": "text"} or {"n": 0, "bodyBase64": "..."}; what is decoded goes to `room`, which does not move. */
static bool read_json_body(const json_t *j, struct buf *room, struct msg_body *ret) {
    const json_t *n = json_object_get(j, "n"), *text = json_object_get(j, "body"),
                 *base64 = json_object_get(j, "bodyBase64");
    size_t from = room->n;

    if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) >= LIMIT_MESSAGES_HARD ||
        !text == !base64 || !json_is_string(text ? text : base64))
        return false;
    ret->n = (uint32_t)json_integer_value(n);
    if (text) {
        ret->body = bytes_of(json_string_value(text), json_string_length(text));
        return true;
    }
    int r = base64_get(room, bytes_of(json_string_value(base64), json_string_length(base64)));
    ret->body = bytes_of(room->p + from, room->n - from);
    return r == 0;
}

static void read_json_bodies(const json_t *j, size_t size, struct answer *ret) {
    const json_t *list = json_object_get(j, "bodies");
    size_t n = json_array_size(list);
    struct msg_body bodies[LIMIT_MESSAGES_HARD];
    CLEANUP_BUF struct buf room;

    buf_init(&room, size + 1);
    if (!list || json_is_null(list) || (json_is_array(list) && n == 0))
        return;
    if (!json_is_array(list) || n > LIMIT_MESSAGES_HARD || buf_reserve(&room, size) < 0) {
        answer_refuse(ret, "answer with bodies that are not a list of at most %d", LIMIT_MESSAGES_HARD);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (read_json_body(json_array_get(list, i), &room, &bodies[i]))
            continue;
        answer_refuse(ret, "answer with a body that is not {\"n\", \"body\"} or {\"n\", \"bodyBase64\"}");
        return;
    }
    keep_bodies(bodies, n, ret);
}

static void read_message_bodies(const Txmsg__V1__CheckResponse *m, struct answer *ret) {
    struct msg_body bodies[LIMIT_MESSAGES_HARD];

    if (m->n_bodies > LIMIT_MESSAGES_HARD) {
        answer_refuse(ret, "answer with more than %d bodies", LIMIT_MESSAGES_HARD);
        return;
    }
    for (size_t i = 0; i < m->n_bodies; i++) {
        bodies[i] = (struct msg_body){m->bodies[i]->n, bytes_of(m->bodies[i]->body.data, m->bodies[i]->body.len)};
        if (bodies[i].n >= LIMIT_MESSAGES_HARD) {
            answer_refuse(ret, "answer with a body for message %u", bodies[i].n);
            return;
        }
    }
    keep_bodies(bodies, m->n_bodies, ret);
}

/* `size` of the JSON text. */
static void read_object(const json_t *j, size_t size, const struct uuid *tx, struct answer *ret) {
    const json_t *id = json_object_get(j, "transactionId"), *decision = json_object_get(j, "decision");
    struct uuid got;

    if (!json_is_string(id) || uuid_parse(bytes_of(json_string_value(id), json_string_length(id)), &got) < 0)
        answer_refuse(ret, "answer without a transactionId");
    else if (!uuid_eq(&got, tx))
        answer_refuse(ret, "answer for another transaction");
    else if (!json_is_string(decision))
        answer_refuse(ret, "answer without a decision");
    else if (word_is(decision, "COMMITTED"))
        ret->verdict = ANSWER_COMMITTED;
    else if (word_is(decision, "ROLLED_BACK"))
        ret->verdict = ANSWER_ROLLED_BACK;
    else if (word_is(decision, "UNKNOWN"))
        ret->verdict = ANSWER_UNKNOWN;
    else
        answer_refuse(ret, "answer with an unknown decision");
    if (ret->verdict != ANSWER_UNREACHABLE)
        read_json_again(j, ret);
    if (ret->verdict != ANSWER_UNREACHABLE)
        read_json_bodies(j, size, ret);
}

void answer_read(const struct web_response *resp, const struct uuid *tx, struct answer *ret) {
    struct errmsg e = ERRMSG_NULL;

    *ret = (struct answer){.verdict = ANSWER_UNREACHABLE, .again_after_ms = -1};
    if (resp->result != WEB_ANSWERED) {
        answer_refuse(ret, "%s", resp->error);
        return;
    }
    if (resp->status != 200) {
        answer_refuse(ret, "HTTP status %d", resp->status);
        return;
    }
    CLEANUP_JSON json_t *j = json_parse(resp->body, &e);
    if (!j)
        answer_refuse(ret, "%s%s", errno == ENOMEM ? "" : "not JSON: ", e.text);
    else if (!json_is_object(j))
        answer_refuse(ret, "not a JSON object");
    else
        read_object(j, resp->body.n, tx, ret);
}

/* The ranges of the well-known types. */
static void read_message_again(const Txmsg__V1__CheckResponse *m, struct answer *ret) {
    const Google__Protobuf__Timestamp *at = m->ask_again_at;
    const Google__Protobuf__Duration *after = m->ask_again_after;

    read_again(at, after, ret);
    if (ret->verdict != ANSWER_UNKNOWN)
        return;
    if (at && (at->seconds <= 0 || at->seconds > 253402300799 || at->nanos < 0 || at->nanos > 999999999))
        answer_refuse(ret, "answer with an ask_again_at that is not a time");
    else if (at)
        ret->again_at_us = clock_us(at->seconds, at->nanos);
    if (after && (after->seconds < 0 || after->seconds > 315576000000 || after->nanos < 0 || after->nanos > 999999999))
        answer_refuse(ret, "answer with an ask_again_after that is not a duration");
    else if (after)
        ret->again_after_ms = after->seconds * 1000 + after->nanos / 1000000;
}

void answer_message(const Txmsg__V1__CheckResponse *m, const struct uuid *tx, struct answer *ret) {
    struct uuid got;

    *ret = (struct answer){.verdict = ANSWER_UNREACHABLE, .again_after_ms = -1};
    if (!m || uuid_parse(bytes_str(m->transaction_id), &got) < 0)
        answer_refuse(ret, "answer without a transaction_id");
    else if (!uuid_eq(&got, tx))
        answer_refuse(ret, "answer for another transaction");
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_COMMITTED)
        ret->verdict = ANSWER_COMMITTED;
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_ROLLED_BACK)
        ret->verdict = ANSWER_ROLLED_BACK;
    else if (m->decision == TXMSG__V1__CHECK_VERDICT__CHECK_VERDICT_UNKNOWN)
        ret->verdict = ANSWER_UNKNOWN;
    else
        answer_refuse(ret, "answer without a decision");
    if (ret->verdict != ANSWER_UNREACHABLE)
        read_message_again(m, ret);
    if (ret->verdict != ANSWER_UNREACHABLE && m->n_bodies)
        read_message_bodies(m, ret);
}
