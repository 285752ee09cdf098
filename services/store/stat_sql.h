/*
 * Pieces of statements over lanes, shared by the counters (stat.c) and retention (retention_sql.c): where each lane
 * ends, where each subscription stands in it, and which entries are not in `stat` yet.
 */
#pragma once

/* A lane's last entry; 0 = none. One commit in flight per lane: what is below the last visible entry is visible too. */
#define STAT_TOP                                                                                                       \
    "top AS MATERIALIZED (SELECT l.lane, l.state, coalesce(g.seq, 0) AS seq FROM lane l LEFT JOIN LATERAL"             \
    " (SELECT g.seq FROM lane_log g WHERE g.lane = l.lane ORDER BY g.seq DESC LIMIT 1) g ON true)"
/*
 * Where subscriptions stand in lanes that are not finished. A lane is finished without asking for a subscription that
 * was deleted, so that one is looked for in all of them until what it left open is counted.
 */
#define STAT_POS                                                                                                       \
    "subs AS MATERIALIZED (SELECT s.id, s.name, s.spec->>'topic' AS topic, s.state = 'deleted' AS gone,"               \
    " s.spec->'filter'->'headers' AS filter FROM subscription s WHERE NOT s.settled),"                                 \
    " cur AS MATERIALIZED (SELECT DISTINCT ON (t.lane, p.target) t.lane, p.target AS sub, p.seq, p.index"              \
    " FROM top t CROSS JOIN LATERAL (SELECT g.seq AS entry, g.prog[i] AS target, g.prog[i + 1] AS seq,"                \
    " g.prog[i + 2] AS index FROM lane_log g CROSS JOIN LATERAL generate_series(1, cardinality(g.prog), 3) i"          \
    " WHERE g.lane = t.lane AND g.seq > t.seq - 2500 AND g.prog IS NOT NULL OFFSET 0) p"                               \
    " WHERE p.target > 0 AND (t.state <> 'drained' OR EXISTS (SELECT FROM subs WHERE gone))"                           \
    " ORDER BY t.lane, p.target, p.entry DESC),"                                                                       \
    " pos AS MATERIALIZED (SELECT t.lane, t.seq AS top, s.id AS sub, s.name, s.topic, s.filter,"                       \
    " coalesce(c.seq, v.from_seq, 0) AS seq, coalesce(c.index, v.from_index, 0) AS index"                              \
    " FROM top t JOIN subs s ON t.state <> 'drained' OR s.gone"                                                        \
    " LEFT JOIN cur c ON c.lane = t.lane AND c.sub = s.id"                                                             \
    " LEFT JOIN sub_vec v ON v.lane = t.lane AND v.sub = s.id)"
/* Confirmed messages that subscription p has not passed, at most `cap` of each lane; seq and index as in lane.h. */
#define STAT_OPEN(cap)                                                                                                 \
    "(SELECT e.at FROM lane_log e CROSS JOIN LATERAL unnest(e.conf) WITH ORDINALITY u(tx, ord) CROSS JOIN LATERAL"     \
    " (SELECT m.n FROM message m WHERE m.tx = u.tx AND m.topic = p.topic"                                              \
    " AND (p.filter IS NULL OR coalesce(m.headers, '{}')::jsonb @> p.filter) OFFSET 0) m"                              \
    " WHERE e.lane = p.lane AND e.seq >= p.seq AND e.seq <= p.top"                                                     \
    " AND (e.seq > p.seq OR (u.ord - 1) * 128 + m.n >= p.index) LIMIT " cap ")"
/* Entries of the lanes in `t` (lane, from_seq, to_seq) that count something. */
#define STAT_ENTRIES                                                                                                   \
    "e AS MATERIALIZED (SELECT g.cnt, g.sub_cnt FROM t CROSS JOIN LATERAL (SELECT g.cnt, g.sub_cnt FROM lane_log g"    \
    " WHERE g.lane = t.lane AND g.seq > t.from_seq AND g.seq <= t.to_seq"                                              \
    " AND (g.cnt IS NOT NULL OR g.sub_cnt IS NOT NULL) OFFSET 0) g)"
/* Their sums, in the shape of `stat`. */
#define STAT_SUMS                                                                                                      \
    "SELECT 0 AS sub, coalesce(sum(e.cnt[1]), 0) AS prepared, coalesce(sum(e.cnt[2]), 0) AS confirmed,"                \
    " coalesce(sum(e.cnt[3]), 0) AS cancelled, coalesce(sum(e.cnt[4]), 0) AS tombstones, 0::int8 AS delivered,"        \
    " 0::int8 AS dead, 0::int8 AS discarded FROM e WHERE e.cnt IS NOT NULL HAVING count(*) > 0"                        \
    " UNION ALL SELECT e.sub_cnt[i], 0, 0, 0, 0, sum(e.sub_cnt[i + 1]), sum(e.sub_cnt[i + 2]),"                        \
    " sum(e.sub_cnt[i + 3]) FROM e CROSS JOIN LATERAL generate_series(1, cardinality(e.sub_cnt), 5) i"                 \
    " GROUP BY e.sub_cnt[i]"
#define STAT_COLUMNS "(sub, prepared, confirmed, cancelled, tombstones, delivered, dead, discarded)"
