/*
 * Commits that the server has lost.
 *
 * After each reconnect, before anything else is sent, the lane looks whether the server still has what it acknowledged: the row of
 * the lane, and at the last acknowledged seq an entry with the nonce that was written there. If not, this is another history: an
 * asynchronous standby was promoted, or an older copy restored. What was answered OK in the lost entries is gone, and nobody but
 * this process knows of it. So it says loudly what, as far as it remembers, seals what is left of the lane, and goes on in a
 * new one. The look is a plain SELECT: what was acknowledged can only be missing if it is lost.
 */
#include "store/lane_private.h"

#include "base/log.h"

enum { IDS_OF_A_LINE = 8 };

struct lane_acked {
    struct uuid id;
    int32_t seq;
    enum tx_state state;
};

/* A new lane, or an adopted one that ends with our seal at `seq`. */
void lane_lost_begin(struct lane *l, int32_t seq) {
    l->last_seq = seq;
    l->last_nonce = 0;
    l->acked_n = 0;
    l->lost_told = false;
    l->checked = true;
}

int lane_lost_init(struct lane *l) {
    l->acked = mem_calloc(LANE_REMEMBERED, sizeof(*l->acked));
    return l->acked ? 0 : -ENOMEM;
}

void lane_lost_deinit(struct lane *l) {
    mem_free(l->acked);
}

void lane_lost_remember(struct lane *l, const struct lane_op *op) {
    if (l->acked) /* an adopted lane takes no operations */
        l->acked[l->acked_n++ % LANE_REMEMBERED] = (struct lane_acked){op->id, l->b.seq, op->state};
}

void lane_lost_acknowledged(struct lane *l, int32_t seq, int64_t nonce) {
    l->last_seq = seq;
    l->last_nonce = nonce;
}

/* --- telling --- */

static void name_them(const struct lane *l, int32_t kept) {
    char line[IDS_OF_A_LINE * (UUID_TEXT + 12)];
    size_t n = 0;
    uint64_t told = 0;
    uint64_t first = l->acked_n > LANE_REMEMBERED ? l->acked_n - LANE_REMEMBERED : 0;
    for (uint64_t i = first; l->acked && i < l->acked_n; i++) {
        const struct lane_acked *a = &l->acked[i % LANE_REMEMBERED];
        char id[UUID_TEXT];
        if (a->seq <= kept)
            continue;
        uuid_format(&a->id, id);
        n += (size_t)snprintf(line + n, sizeof(line) - n, " %s %s", id, tx_state_name(a->state));
        if (++told % IDS_OF_A_LINE == 0) {
            LOG_ERROR("store", "lane %d: answered OK and lost:%s", l->number, line);
            n = 0;
        }
    }
    if (n)
        LOG_ERROR("store", "lane %d: answered OK and lost:%s", l->number, line);
    if (first && l->acked[first % LANE_REMEMBERED].seq > kept + 1)
        LOG_ERROR("store", "lane %d: more was lost between seq %d and %d than is remembered here", l->number, kept + 1,
                  l->acked[first % LANE_REMEMBERED].seq);
    lane_count_lost((uint32_t)(l->last_seq - kept), told);
}

static void rest_sealed(struct pg_run *run, const struct pg_error *err) {
    struct lane *l = CONTAINER_OF(run, struct lane, pg);
    if (l->freed || err->cls == PG_LOST) /* then it looks again */
        return;
    if (err->cls != PG_OK && err->cls != PG_CONFLICT)
        LOG_WARN("store", "lane %d: the rest is not sealed: %s; whoever adopts it will", l->number, err->message);
    if (l->state == LANE_UNKNOWN)
        lane_count_unknown(UNKNOWN_FENCED);
    lane_fenced(l);
}

/* What is left, if it is still ours, belongs to whoever continues it. */
static void seal_rest(struct lane *l) {
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_uuid(&p, &l->run);
    l->pg.on_result = NULL;
    l->pg.on_done = rest_sealed;
    int r = pg_run_begin(l->conn, &l->pg);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_seal_rest", &p);
    if (r == 0)
        r = pg_run_send(&l->pg, "lane_sealed", &p);
    if (r == 0)
        r = pg_run_end(&l->pg);
    if (r < 0)
        lane_reconnect(l); /* and looks again */
}

/* --- looking --- */

static void on_tip(void *arg, PGresult *r, const struct pg_error *err) {
    struct lane *l = arg;
    if (l->freed)
        return;
    if (err->cls != PG_OK || PQntuples(r) != 1) {
        if (err->cls != PG_LOST) {
            LOG_WARN("store", "lane %d: cannot look at its end: %s %s", l->number, err->sqlstate, err->message);
            lane_reconnect(l);
        }
        return;
    }
    int32_t max = pg_get_int32(r, 0, 0);
    bool there = pg_get_bool(r, 0, 2), same = !pg_get_null(r, 0, 1) && pg_get_int64(r, 0, 1) == l->last_nonce;
    if (there && max >= l->last_seq && (l->last_seq == 0 || l->last_nonce == 0 || same)) {
        l->checked = true;
        lane_go_on(l);
        return;
    }
    /* Entries of another history are not ours to count as kept. */
    int32_t kept = MIN(max, l->last_seq);
    if (max >= l->last_seq && l->last_seq)
        kept = l->last_seq - 1;
    LOG_ERROR("store",
              "lane %d: THE DATABASE HAS LOST ACKNOWLEDGED COMMITS: it was answered OK up to seq %d, %s up to seq %d. "
              "A standby that lagged was promoted, or an older copy restored. See \"Trouble\" in deploy/README.md",
              l->number, l->last_seq, there ? "stored it is" : "the lane itself is gone, stored it is", kept);
    if (!l->lost_told)
        name_them(l, kept);
    l->lost_told = true;
    seal_rest(l);
}

void lane_lost_look(struct lane *l) {
    l->checked = false;
    struct pg_params p;
    pg_params_init(&p);
    pg_param_int32(&p, l->number);
    pg_param_int32(&p, l->last_seq);
    if (pg_query(l->conn, "lane_tip", &p, on_tip, l) < 0)
        lane_reconnect(l);
}
