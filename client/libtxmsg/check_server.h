/* CheckService at an address of the client's own, on the engine's queue. All but making and freeing under the client's lock. */
#pragma once

#include "engine.h"

struct check_server;
struct listener;
/* After an error *ret, if it is not NULL, is to be freed too. TXMSG_ERROR_ADDRESS: errno says why; TXMSG_ERROR_MEMORY, TXMSG_ERROR_SYSTEM. */
int check_server_make(struct client *c, struct listener *l, struct check_server **ret);
int check_server_port(const struct check_server *s);
/* True: it is to be called again soon. @thread engine */
bool check_server_turn(struct check_server *s, uint64_t now);
/* Calls under way end without an answer: the service asks elsewhere, or again. May be called again. */
void check_server_stop(struct check_server *s);
void check_server_free(
    struct check_server *s); /* NULL allowed; stopped, after the engine and the listener have ended */
