/* gRPC C core as a library of the process: its life, its log, its mutexes. @thread any, but not from an rpc thread */
#pragma once

/* Counted: every library_init() needs one library_deinit(). Never fork() between the two. */
void library_init(void);
void library_deinit(void);
/* Core's own log follows log_level_of("grpc"). To be called again when that has changed. */
void rpc_log_level(void);
