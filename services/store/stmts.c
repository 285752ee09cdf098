/* Lists the statements whose plans must hold on every partition, empty or full: one line each, "name<TAB>sql". */
#include "store/stmts.h"

#include "store/lane_private.h"

static void print_table(const struct pg_stmt *s, struct buf *out) {
    for (; s->name; s++)
        buf_printf(out, "%s\t%s\n", s->name, s->sql);
}

void stmts_print(struct buf *out) {
    print_table(lane_all_stmts(), out);
    print_table(reader_stmts, out);
    print_table(claim_stmts, out);
    print_table(run_stmts, out);
}
