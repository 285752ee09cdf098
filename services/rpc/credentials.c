/* Why: when TLS comes, this is the only file that learns of keys and certificates. */
#include "rpc/credentials.h"

grpc_server_credentials *credentials_server(void) {
    return grpc_insecure_server_credentials_create();
}

grpc_channel_credentials *credentials_client(void) {
    return grpc_insecure_credentials_create();
}
