/* In builds without librabbitmq. */
#include "forward/reach_private.h"
#include "forward/sink.h"

int sink_rabbitmq_new(const struct sink_env *env, const struct sink_owner *o, struct sink **ret, struct errmsg *e) {
    UNUSED(env), UNUSED(o), UNUSED(ret);
    return err_set(e, -ENOTSUP, "this build has no RabbitMQ sink (librabbitmq)");
}

int reach_rabbitmq(const char *url, const char *exchange, const struct guard *guard, int64_t timeout_ms,
                   struct reach_result *x) {
    UNUSED(url), UNUSED(exchange), UNUSED(guard), UNUSED(timeout_ms), UNUSED(x);
    return -ENOTSUP;
}
