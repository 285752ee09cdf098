/* All commands, options and exit codes, in the order in which people read them: what help, completions and the man page are made from. */
#include "txmsgctl/ctl.h"

const struct ctl_option ctl_global_options[] = {
    {"--server", "HOST:PORT", "the service; default TXMSG_SERVER or 127.0.0.1:7400"},
    {"--json", NULL, "JSON instead of tables"},
    {"--timeout", "DURATION", "of one call; default 10s"},
    {"--help", NULL, "this text, or that of a command"},
    {"--version", NULL, "the version"},
    {NULL, NULL, NULL},
};

const struct ctl_command *const ctl_tables[] = {message_commands, show_commands,    watch_commands, topology_commands,
                                                object_commands,  admin_commands,   dead_commands,  replay_commands,
                                                monitor_commands, migrate_commands, shell_commands, NULL};

const struct ctl_exit ctl_exits[] = {
    {CTL_OK, "done"},
    {CTL_REFUSED, "the service refused, or a person said no"},
    {CTL_USAGE, "usage, a file that cannot be read, or nobody could be asked and --yes was not given"},
    {CTL_UNREACHABLE, "the service or the database cannot be reached or cannot write"},
    {CTL_UNKNOWN, "the outcome is unknown: repeat with the same id"},
    {CTL_DIFFERS, "diff: there are differences"},
    {0, NULL},
};
