/*
 * Checks over HTTP, answered from the record of local transactions, for an application that has an HTTP port anyway:
 *
 *     cc check_http.c $(pkg-config --cflags --libs libtxmsg-consumer libtxmsg-pq libmicrohttpd jansson) -o check_http
 *     PGDATABASE=shop CHECK_SECRET=whsec_... ./check_http 9000
 *
 * and in the topology `producers: [{name: shop, check: {endpoints: ["http://127.0.0.1:9000/check"], secret: whsec_...}}]`.
 *
 * Status 200 with the same id and one of three words is an answer. Everything else is none: the check is made again, and does not count as UNKNOWN. So
 * what cannot be found out now is answered 503.
 */
#include <arpa/inet.h>
#include <jansson.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <txmsg/consumer.h>
#include <txmsg/local_tx.h>

enum { HEADERS_MAX = 64, QUESTION_MAX = 1 << 20, CONNECTIONS_MAX = 64, TIMEOUT_S = 30, LOCK_MS = 1000 };

struct request {
    struct txmsg_header headers[HEADERS_MAX];
    size_t headers_n, size;
    char body[QUESTION_MAX];
};

static struct txmsg_webhook keys;

/* The answer as text that the caller frees; NULL: it could not be found out. */
static char *answer_of(const char *id) {
    static const char *const words[] = {"UNKNOWN", "COMMITTED", "ROLLED_BACK"};
    PGconn *db = PQconnectdb(""); /* PGHOST, PGDATABASE ...: the primary, never a replica */
    struct txmsg_pq_error e = {"", ""};
    enum txmsg_decision decision;
    char *text = NULL;

    if (PQstatus(db) == CONNECTION_OK && txmsg_local_tx_check(db, id, LOCK_MS, &decision, &e) == TXMSG_OK) {
        json_t *answer = json_pack("{s:s, s:s}", "transactionId", id, "decision", words[decision]);
        text = json_dumps(answer, JSON_COMPACT);
        json_decref(answer);
    } else {
        fprintf(stderr, "%s: %s%s\n", id, PQerrorMessage(db), e.text);
    }
    PQfinish(db);
    return text;
}

/* The status, and with 200 an answer. */
static unsigned check(const struct request *q, char **answer) {
    struct txmsg_why why = {""};
    json_t *question;
    const char *id;
    unsigned status = 400;

    if (txmsg_webhook_verify(&keys, q->headers, q->headers_n, q->body, q->size, 0, &why) != TXMSG_OK) {
        fprintf(stderr, "refused: %s\n", why.text);
        return 401;
    }
    question = json_loadb(q->body, q->size, 0, NULL);
    id = json_string_value(json_object_get(question, "transactionId"));
    if (id) {
        *answer = answer_of(id);
        status = *answer ? 200 : 503;
    }
    json_decref(question);
    return status;
}

/* --- HTTP --- */

static enum MHD_Result take_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    struct request *q = arg;

    (void)kind;
    if (q->headers_n < HEADERS_MAX && value)
        q->headers[q->headers_n++] = (struct txmsg_header){name, strlen(name), value, strlen(value)};
    return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **state) {
    struct request *q = *state;
    char *answer = NULL;
    unsigned status;

    (void)arg, (void)version;
    if (!q) { /* the first of several calls for one request */
        *state = calloc(1, sizeof(*q));
        return *state ? MHD_YES : MHD_NO;
    }
    if (*size > 0) {
        if (*size > QUESTION_MAX - q->size)
            return MHD_NO; /* cut off */
        memcpy(q->body + q->size, data, *size);
        q->size += *size;
        *size = 0;
        return MHD_YES;
    }
    MHD_get_connection_values(c, MHD_HEADER_KIND, take_header, q);
    status = strcmp(url, "/check") != 0 ? 404 : strcmp(method, "POST") != 0 ? 405 : check(q, &answer);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(answer ? strlen(answer) : 0, answer, MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    enum MHD_Result r = MHD_queue_response(c, status, response);
    MHD_destroy_response(response);
    return r;
}

static void on_completed(void *arg, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why) {
    (void)arg, (void)c, (void)why;
    free(*state);
}

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct MHD_Daemon *server;

    keys.secret = getenv("CHECK_SECRET");
    if (argc != 2 || !keys.secret) {
        fprintf(stderr, "usage: CHECK_SECRET=whsec_... %s PORT\n", argv[0]);
        return 2;
    }
    at.sin_port = htons((uint16_t)strtol(argv[1], NULL, 10));
    server = MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL,
                              on_request, NULL, MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
                              NULL, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                              MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S, MHD_OPTION_END);
    if (!server) {
        fprintf(stderr, "cannot listen on port %s\n", argv[1]);
        return 1;
    }
    getchar(); /* until standard input ends */
    MHD_stop_daemon(server);
    return 0;
}
