/* Names, version, ids. */
#include "txmsg/types.h"

#include "base/clock.h"
#include "base/crypto.h"
#include "base/uuid.h"
#include "fork.h"

const char *txmsg_version(void) {
    return TXMSG_VERSION;
}

const char *txmsg_status_name(int status) {
    switch (status) {
    case TXMSG_OK:
        return "OK";
    case TXMSG_REFUSED:
        return "REFUSED";
    case TXMSG_UNAVAILABLE:
        return "UNAVAILABLE";
    case TXMSG_UNKNOWN:
        return "UNKNOWN";
    case TXMSG_ERROR_INVALID:
        return "ERROR_INVALID";
    case TXMSG_ERROR_BUSY:
        return "ERROR_BUSY";
    case TXMSG_ERROR_MEMORY:
        return "ERROR_MEMORY";
    case TXMSG_ERROR_CLOSED:
        return "ERROR_CLOSED";
    case TXMSG_ERROR_FORKED:
        return "ERROR_FORKED";
    case TXMSG_ERROR_CALLBACK:
        return "ERROR_CALLBACK";
    case TXMSG_ERROR_SYSTEM:
        return "ERROR_SYSTEM";
    case TXMSG_ERROR_ADDRESS:
        return "ERROR_ADDRESS";
    default:
        return "?";
    }
}

/* Randomness comes in pools. A child has the parent's pool, and must not use what the parent will use as well. */
int txmsg_id_make(txmsg_id *id) {
    static _Thread_local unsigned made_in;
    unsigned now = fork_count();
    struct uuid u;

    if (!id)
        return TXMSG_ERROR_INVALID;
    if (made_in != now) {
        uuid_v7_forget();
        made_in = now;
    }
    uuid_v7_make(clock_real_us() / 1000, &u);
    uuid_format(&u, id->text);
    return TXMSG_OK;
}

int txmsg_id_parse(txmsg_id *id, const char *text) {
    struct uuid u;

    if (!id || !text || uuid_parse(bytes_str(text), &u) || !uuid_is_v7(&u))
        return TXMSG_ERROR_INVALID;
    uuid_format(&u, id->text);
    return TXMSG_OK;
}
