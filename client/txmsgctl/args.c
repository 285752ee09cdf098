/* Options may stand anywhere, as --name value or --name=value; "--" ends them. */
#include "txmsgctl/ctl.h"

static const struct ctl_option *find(const struct ctl_option *o, const char *name, size_t n) {
    for (; o && o->name; o++)
        if (strlen(o->name) == n && !strncmp(o->name, name, n))
            return o;
    return NULL;
}

int args_parse(int n, char **argv, const struct ctl_option *global, const struct ctl_option *own,
               struct ctl_args *ret) {
    *ret = (struct ctl_args){0};
    bool ended = false;
    for (int i = 0; i < n; i++) {
        const char *w = argv[i];
        if (ended || w[0] != '-' || !w[1]) {
            if (ret->words_n == CTL_WORDS_MAX)
                return (fprintf(stderr, "txmsgctl: too many operands\n"), -EINVAL);
            ret->words[ret->words_n++] = w;
            continue;
        }
        if (!strcmp(w, "--")) {
            ended = true;
            continue;
        }
        const char *eq = strchr(w, '=');
        size_t len = eq ? (size_t)(eq - w) : strlen(w);
        const struct ctl_option *o = find(own, w, len);
        if (!o)
            o = find(global, w, len);
        if (!o)
            return (fprintf(stderr, "txmsgctl: unknown option %.*s\n", (int)len, w), -EINVAL);
        const char *value = eq ? eq + 1 : "";
        if (!o->value_name && eq)
            return (fprintf(stderr, "txmsgctl: %s takes no value\n", o->name), -EINVAL);
        if (o->value_name && !eq) {
            if (i + 1 == n)
                return (fprintf(stderr, "txmsgctl: %s needs a value (%s)\n", o->name, o->value_name), -EINVAL);
            value = argv[++i];
        }
        if (ret->options_n == CTL_OPTIONS_MAX)
            return (fprintf(stderr, "txmsgctl: too many options\n"), -EINVAL);
        ret->options[ret->options_n].name = o->name;
        ret->options[ret->options_n++].value = value;
    }
    return 0;
}

const char *args_get(const struct ctl_args *a, const char *name) {
    for (int i = a->options_n - 1; i >= 0; i--)
        if (!strcmp(a->options[i].name, name))
            return a->options[i].value;
    return NULL;
}

bool args_has(const struct ctl_args *a, const char *name) {
    return args_get(a, name) != NULL;
}
