/*
 * The accept gate: how many connections a listening port of gRPC core may have, and what happens when there is no file
 * descriptor left for one more. Beyond the bound a connection is reset as soon as it is accepted.
 */
#pragma once

#include "base/err.h"

#include <sys/socket.h>

struct gate;
/*
 * For the sockets that core will listen on at `listen` ("127.0.0.1:7400", "unix:/run/txmsg/grpc"), whose port has come
 * out as `port`; `max` connections at a time. -ENOMEM; -ENOSPC: too many gates in this process.
 */
int gate_open(const char *listen, int port, int max, struct gate **ret) MUSTCHECK;
void gate_close(struct gate *g); /* NULL allowed; core does not accept there any more */
/* A connection that comes from this address is let in beyond the bound: one of the process itself. Of a Unix socket all such
 * are. @thread any */
void gate_expect(struct gate *g, const struct sockaddr_storage *from);
int gate_connections(struct gate *g); /* that are open now. @thread any */
