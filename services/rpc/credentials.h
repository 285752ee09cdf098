/* Credentials of both sides, in one place. Plain TCP so far: the daemon listens on loopback unless told otherwise. */
#pragma once

#include <grpc/grpc_security.h>

grpc_server_credentials *credentials_server(void) __attribute__((warn_unused_result));  /* the caller releases them */
grpc_channel_credentials *credentials_client(void) __attribute__((warn_unused_result)); /* likewise */
