/* In builds without librabbitmq. */
#include "forward/sink.h"

int sink_rabbitmq_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    UNUSED(env), UNUSED(o), UNUSED(ret);
    return err_set(e, -ENOTSUP, "this build has no RabbitMQ sink (librabbitmq)");
}
