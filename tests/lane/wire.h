/*
 * A proxy that reads the PostgreSQL protocol, so that a connection can be stopped at an exact point of an exact group of
 * statements (a group ends with its Sync). Its own thread carries the bytes; every function here is @thread any.
 *
 * A trap waits for the next group with a certain statement on a lane's connection. When it snaps, both directions of that
 * connection stand still until the test says how it goes on.
 */
#pragma once

#include "tcp.h"

enum wire_at {
    WIRE_HELD,          /* nothing of the group has reached the server */
    WIRE_BEFORE_SYNC,   /* everything but the Sync was sent on */
    WIRE_AFTER_SYNC,    /* all of it was sent on; what the server says is kept back */
    WIRE_BEFORE_ANSWER, /* the server has answered the Sync; nothing of it was passed on */
};

struct wire;
int wire_start(PGconn *to, struct wire **ret, int *port);
void wire_stop(struct wire *w);
/* `stmt`: the name of a prepared statement, or the text of an unprepared one. Replaces a trap that has not snapped. */
void wire_arm(struct wire *w, const char *stmt, enum wire_at at);
/* Whose connection ran into the trap; -1 = nobody's within the time. */
int wire_wait(struct wire *w, unsigned seconds);
int wire_backend(struct wire *w, int id); /* process id of its backend */
void wire_go(struct wire *w, int id);     /* as if nothing had been */
void wire_cut(struct wire *w, int id);    /* both sides are closed */
void wire_drop(struct wire *w, int id);   /* the client's side is closed; the server does not hear of it */
/* After wire_drop(): has the server closed its side? `state`: the SQLSTATE of the last error that it sent. */
bool wire_ended(struct wire *w, int id, char state[6]);
void wire_refuse(struct wire *w, bool refuse); /* new connections are closed at once */
