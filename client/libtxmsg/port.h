/*
 * A listening socket and the thread that accepts on it, and hands connections over to a server of core. Why not core's own: a listener of core stops
 * for ever after the first accept() that failed, as one does when the application has no descriptor left; and it bounds nothing.
 */
#pragma once

#include "txmsg/types.h"

#include <grpc/grpc.h>

enum { PORT_CONNECTIONS_MAX = 128 };

struct port;
/* "host:7500", "[::]:7500". TXMSG_OK; TXMSG_ERROR_ADDRESS with errno saying why, TXMSG_ERROR_MEMORY, TXMSG_ERROR_SYSTEM. */
int port_open(const char *address, struct port **ret);
int port_number(const struct port *p);
/* The server is started, and stays until port_stop(). TXMSG_OK, TXMSG_ERROR_SYSTEM. */
int port_start(struct port *p, grpc_server *to);
/* Nothing is accepted any more, and nobody can connect. May be called again. */
void port_stop(struct port *p);
void port_free(struct port *p); /* NULL allowed; stops it */
