/*
 * The lane protocol: one owner, a server that commits or aborts late, two adopters that may suspect falsely.
 *
 * Labels and inlines in small letters are steps: each is the name of a function or of a statement in services/, doing the
 * same there (tests/lint/model.py). Names in capitals are the model's own. README.md says what is left out.
 */
#ifndef OPS
#define OPS 2    /* operations of the owner, one in a batch */
#endif
#ifndef LOSSES
#define LOSSES 1 /* connections that break */
#endif
#ifndef DOUBTS
#define DOUBTS 1 /* living runs that are taken for dead */
#endif
#ifndef CRASHES
#define CRASHES 2 /* of the owner and of the first adopter */
#endif
#ifndef TRIES
#define TRIES 1   /* of one take */
#endif
#ifndef HALVES
#define HALVES 0   /* cursors that an adopter records on its way */
#endif
#ifndef RIVAL
#define RIVAL 0    /* repeats of the first operation at another replica */
#endif
#ifndef QUARRELS
#define QUARRELS 0
#endif
#define SEQS 14
#define SLOTS 4
#define SEALS_MAX (3 + LOSSES + DOUBTS) /* its own, for two deaths, and one for each mishap */

#define OWNER 0 /* 1 and 2 are adopters */

mtype = {
    NONE, D, N, S, P,                       /* rows of lane_log */
    SENT,                                   /* a server process and its transaction, which is on its way */
    ROW,                                    /* holds the key of its lane row */
    IDS,                                    /* exact form: holds its ids, waits for its client */
    LAST,                                   /* exact form: lane row and COMMIT are on their way */
    CLAIMED,                                /* take: holds the lane */
    KEYS,                                   /* holds all it needs: COMMIT is next */
    STORED, DUPLICATE_ROW, DUPLICATE_ID,    /* its answer */
    FREE                                    /* mtypes count down: what is not over is above STORED */
};

typedef TRANSACTION {
    mtype st;
    mtype kind;
    byte who, seq, op, prog, seen;
    bit exact, won;
    bit lost;  /* its client does not hear of it any more */
    bit ended; /* pg_terminate_backend() was called */
};
TRANSACTION tx[SLOTS];
byte used;

/* lane_log, lane, decision */
mtype row[SEQS];
byte row_op[SEQS], row_prog[SEQS];
byte top;                /* the highest seq committed */
byte key[SEQS];          /* who holds it uncommitted: slot + 1 */
byte id[OPS + 1];        /* the same for decisions */
byte lane_lock;          /* and for the row of the lane */
byte lane_run = OWNER;
bit sealed, drained;
bit decided[OPS + 1];

/* what only the assertions know */
bit ok[OPS + 1], delivered[OPS + 1], listed[OPS + 1];
byte sealer, seals;
bit done[3];

bit dead[3];
byte conn[3];            /* slot + 1 of what a run has in flight */
byte losses = LOSSES, doubts = DOUBTS, crashes = CRASHES, halves = HALVES, quarrels = QUARRELS;

#define T        tx[i]
#define MINE     tx[conn[me] - 1]
#define LOST     (conn[me] == 0)
#define ROOM     (used < SLOTS) /* a server process is free */

#define IS_LANE(k) (k == D || k == P || k == N)

inline CLEAR(i) {
    T.st = FREE; T.kind = NONE; T.who = 0; T.seq = 0; T.op = 0; T.prog = 0; T.seen = 0;
    T.exact = 0; T.won = 0; T.lost = 0; T.ended = 0; used--
}
inline RELEASE(i) {
    if
    :: key[T.seq] == i + 1 -> key[T.seq] = 0
    :: else
    fi;
    if
    :: id[T.op] == i + 1 -> id[T.op] = 0
    :: else
    fi;
    if
    :: lane_lock == i + 1 -> lane_lock = 0
    :: else
    fi
}
/* The client will not hear what becomes of its transaction; the server goes on with it, or not. */
inline LOSE(w) {
    d_step {
        if
        :: conn[w] != 0 -> tx[conn[w] - 1].lost = 1; conn[w] = 0
        :: else
        fi
    }
}
inline SEND(k, s, o, x, pr, sn) {
    d_step {
        conn[me] = 0;
        do
        :: tx[conn[me]].st == FREE -> break
        :: else -> conn[me]++
        od;
        conn[me]++; used++;
        MINE.st = SENT; MINE.kind = k; MINE.who = me; MINE.seq = s; MINE.op = o; MINE.exact = x; MINE.prog = pr;
        MINE.seen = sn;
        assert(s < SEQS - 1)
    }
}
inline HEARD() {
    d_step {
        CLEAR(conn[me] - 1);
        conn[me] = 0
    }
}
/*
 * Ends the other connections of the lane by their name; those that commit just now still may. Who resolves an unknown
 * outcome means its own, but may hit another run's: two can do that to each other. Each time, the first that gets through
 * ends it; here they do it at most `quarrels` times.
 */
inline END_OLD(foreign) {
    d_step {
        j = 0;
        do
        :: j < SLOTS && IS_LANE(tx[j].kind) && tx[j].st > STORED && (tx[j].who == me || foreign || quarrels > 0) ->
            if
            :: tx[j].who != me && !foreign -> quarrels--
            :: else
            fi;
            tx[j].ended = 1;
            if
            :: !tx[j].lost -> tx[j].lost = 1; conn[tx[j].who] = 0
            :: else
            fi;
            j++
        :: j < SLOTS && !(IS_LANE(tx[j].kind) && tx[j].st > STORED && (tx[j].who == me || foreign || quarrels > 0)) ->
            j++
        :: j == SLOTS -> break
        od;
        j = 0
    }
}
inline DELIVER(o) {
    d_step {
        assert(decided[o]); /* no byte leaves before the commit */
        delivered[o] = 1
    }
}

inline COMMIT(i) {
    assert(row[T.seq] == NONE);
    if
    :: T.kind == D ->
        assert(!sealed); /* nobody writes data behind a seal */
        row[T.seq] = D; row_prog[T.seq] = T.prog;
#ifdef LOSERS_LISTED
        row_op[T.seq] = T.op;
#else
        row_op[T.seq] = (T.won -> T.op : 0);
#endif
        if
        :: row_op[T.seq] != 0 -> assert(!listed[T.op]); listed[T.op] = 1
        :: else
        fi;
        if
        :: T.won -> assert(!decided[T.op]); decided[T.op] = 1
        :: else
        fi
    :: T.kind == P ->
        assert(sealer == T.who); /* only the last who sealed writes behind the seal */
        row[T.seq] = P; row_prog[T.seq] = T.prog
    :: T.kind == S ->
        assert(lane_run == T.seen); /* a lane is taken only from the run that was seen dead */
#ifndef NO_CLAIM
        lane_run = T.who;
#endif
        row[T.seq] = S; sealed = 1; sealer = T.who; seals++;
        assert(seals <= SEALS_MAX) /* adopters do not seal each other for ever */
    fi;
    if
    :: T.seq > top -> top = T.seq
    :: else
    fi;
    RELEASE(i);
    T.won = (T.kind == S -> 1 : T.won);
    T.st = STORED
}

/* A server process: PostgreSQL's side of one transaction at a time. */
proctype BACKEND(byte i) {
end:
    do
    /* optimistic form, and what adopters record: the lane row first */
    :: atomic { T.st == SENT && ((T.kind == D && !T.exact) || T.kind == P) && key[T.seq] == 0 ->
lane_row:
        if
#ifndef FENCE_NOT_UNIQUE
        :: row[T.seq] != NONE -> T.st = DUPLICATE_ROW
#else
        :: row[T.seq] != NONE -> T.seq = top + 1; T.st = ROW
#endif
        :: row[T.seq] == NONE && T.kind == P -> key[T.seq] = i + 1; T.st = KEYS
        :: row[T.seq] == NONE && T.kind == D -> key[T.seq] = i + 1; T.st = ROW
        fi }
    :: atomic { T.st == ROW && id[T.op] == 0 ->
decisions:
        if
        :: decided[T.op] -> RELEASE(i); T.st = DUPLICATE_ID
        :: else -> id[T.op] = i + 1; T.won = 1; T.st = KEYS
        fi }
    /* exact form: ids first, the lane row with the winners at the client's next word */
    :: atomic { T.st == SENT && T.kind == D && T.exact && id[T.op] == 0 ->
decisions_exact:
        if
        :: decided[T.op] -> T.won = 0
        :: else -> id[T.op] = i + 1; T.won = 1
        fi;
        T.st = IDS }
    :: atomic { T.st == LAST && key[T.seq] == 0 ->
batch_send_commit:
        if
        :: row[T.seq] != NONE -> RELEASE(i); T.st = DUPLICATE_ROW
        :: else -> key[T.seq] = i + 1; T.st = KEYS
        fi }
    :: atomic { T.st == SENT && T.kind == N && key[T.seq] == 0 ->
lane_noop:
        if
        :: row[T.seq] == NONE -> row[T.seq] = N; T.won = 1;
            if
            :: T.seq > top -> top = T.seq
            :: else
            fi
        :: else -> T.won = 0
        fi;
        T.st = STORED }
    :: atomic { T.st == SENT && T.kind == S && lane_lock == 0 ->
run_take:
        if
#ifdef NO_COMPARE
        :: drained -> T.st = STORED
        :: else -> lane_lock = i + 1; T.seq = top + 1; T.st = CLAIMED
#else
        :: lane_run != T.seen || drained -> T.st = STORED
        :: else -> lane_lock = i + 1; T.seq = top + 1; T.st = CLAIMED
#endif
        fi }
    :: atomic { T.st == CLAIMED && key[T.seq] == 0 ->
run_seal:
        if
        :: row[T.seq] != NONE -> RELEASE(i); T.st = DUPLICATE_ROW
        :: else -> key[T.seq] = i + 1; T.st = KEYS
        fi }
    :: d_step { T.st == KEYS -> COMMIT(i) }
    /* It died with its client's connection, or was ended; one that waits for its client dies only if it is ended. */
    :: d_step { T.lost && T.st != FREE && (T.st != IDS || T.ended) -> RELEASE(i); CLEAR(i) }
    od
}

/*
 * The clients. A turn, from an answer to the next request, is one atomic step: nothing that others could see happens in
 * between, and a crash in it is a crash before or after it.
 */
proctype RUN_OWNER() {
    byte op = 1, seq = 1, cursor = 1, j, me = OWNER;
    byte memory[SEQS]; /* what this run knows of its own entries */
    bit exact;
    { skip;
batch_form:
    atomic {
        if /* how much was delivered meanwhile: nothing, or all that is committed */
        :: true -> skip
        :: cursor < seq ->
cursor_pump:
            do
            :: cursor < seq ->
                if
                :: memory[cursor] != 0 -> DELIVER(memory[cursor])
                :: else
                fi;
                cursor++
            :: else -> break
            od
        fi;
        if
        :: op <= OPS -> skip; goto send_batch
        :: else -> skip; goto seal /* deliveries that do not end in time are left to the adopter */
        fi
    }

send_batch:
#if defined(PROGRESS_AHEAD)
    atomic { ROOM -> SEND(D, seq, op, exact, seq, 0) }
#elif defined(TWO_IN_FLIGHT)
    atomic { used + 1 < SLOTS -> SEND(D, seq, op, exact, cursor, 0); SEND(D, seq + 1, op + 1, exact, cursor, 0) }
#else
    atomic { ROOM -> SEND(D, seq, op, exact, cursor, 0) }
#endif
WAIT:
    if
    :: atomic { LOST -> skip; goto commit_resolve }
    :: atomic { !LOST && MINE.st == IDS -> MINE.st = LAST; goto WAIT } /* next_trip */
    :: atomic { !LOST && MINE.st == DUPLICATE_ROW -> HEARD(); goto lane_fenced }
    :: atomic { !LOST && MINE.st == DUPLICATE_ID -> HEARD(); exact = 1; goto send_batch } /* aborted */
    :: atomic { !LOST && MINE.st == STORED -> memory[seq] = (MINE.won -> op : 0); HEARD(); goto committed }
#ifdef ANSWER_EARLY
    :: atomic { !LOST && MINE.st == KEYS && !ok[op] -> ok[op] = 1; goto WAIT }
#endif
#ifdef DISPATCH_EARLY
    :: atomic { !LOST && MINE.st == KEYS && !delivered[op] -> DELIVER(op); goto WAIT }
#endif
    fi;

committed:
    atomic {
        assert(decided[op]); /* answer_winner, or judge: what a loser met agrees */
        ok[op] = 1; op++; seq++; exact = 0;
        goto batch_form
    }

commit_resolve:
#if defined(TWO_IN_FLIGHT)
    goto OVER;
#elif defined(RESOLVE_BY_SELECT)
    atomic {
        if
        :: row[seq] == NONE -> skip; goto resolved_dead
        :: else -> skip; goto on_look
        fi
    }
#endif
lane_end_old:
    atomic { ROOM ->
#ifndef NO_END_OLD
        END_OLD(false);
#endif
        SEND(N, seq, 0, 0, 0, 0)
    }
    if
    :: atomic { LOST -> skip; goto commit_resolve }
    :: atomic { !LOST && MINE.st == STORED && MINE.won -> HEARD(); goto resolved_dead }
    :: atomic { !LOST && MINE.st == STORED && !MINE.won -> HEARD(); goto on_look }
    fi;

on_look:
    atomic {
        if
        :: row[seq] == S -> skip; goto lane_fenced
        :: row[seq] == D -> memory[seq] = row_op[seq]; goto committed /* its own: nobody else writes D here */
        :: row[seq] == N -> skip; goto resolved_dead                        /* an earlier N of its own */
        fi
    }

resolved_dead:
    atomic { seq++; exact = 1; goto send_batch }

lane_fenced:
    /* All that is unanswered runs again in a new lane, which is the same protocol: here one step for each. */
    do
    :: atomic { op <= OPS && id[op] == 0 ->
open_lane:
        if
        :: !decided[op] -> decided[op] = 1; delivered[op] = 1; listed[op] = 1
        :: else
        fi;
        ok[op] = 1; op++ }
    :: op > OPS -> skip; goto OVER
    od;

seal:
    atomic { lane_lock == 0 && key[seq] == 0 ->
        if
        :: row[seq] == NONE ->
lane_sealed:
            row[seq] = S; top = seq; sealed = 1; sealer = OWNER; seals++
        :: else /* somebody else did */
        fi
    }
OVER:
    skip
    } unless { dead[OWNER] }
    atomic {
        op = 0; seq = 0; cursor = 0; j = 0; exact = 0;
        do
        :: j < SEQS -> memory[j] = 0; j++
        :: else -> j = 0; break
        od;
        dead[OWNER] = 1; LOSE(OWNER); done[OWNER] = 1
    } /* run_retire, or the crash */
}

proctype RUN_ADOPTER(byte me) {
    byte seen, end_seq, seq, cursor, j, upto, tries;
    { skip;
run_look:
    atomic { seen = 0; end_seq = 0; seq = 0; cursor = 0; upto = 0; tries = 0 }
    if
    :: drained -> skip; goto OVER
    :: atomic { !drained && lane_run != me && dead[lane_run] -> seen = lane_run; goto send_take }
    :: atomic { !drained && lane_run != me && !dead[lane_run] && doubts > 0 -> doubts--; seen = lane_run;
        goto send_take }
    :: atomic { !drained && lane_run == me -> seen = me; goto send_take } /* its own take, of which it never heard */
    fi;

send_take:
    atomic { ROOM ->
        upto = top;
        if
        :: lane_run == seen && !drained ->
run_end_owner:
#ifndef NO_END_OLD
            END_OLD(true)
#else
            skip
#endif
        :: else
        fi;
        SEND(S, 0, 0, 0, 0, seen)
    }
    if
    :: atomic { LOST -> skip; goto run_look }
    /* The owner committed just now: behind that. If it lives its beat moves, so not for ever. */
    :: atomic { !LOST && MINE.st == DUPLICATE_ROW && tries < TRIES -> tries++; HEARD(); goto send_take }
    :: atomic { !LOST && MINE.st == DUPLICATE_ROW && tries == TRIES -> HEARD(); goto run_look }
    :: atomic { !LOST && MINE.st == STORED && !MINE.won -> HEARD(); goto run_look }
    :: atomic { !LOST && MINE.st == STORED && MINE.won -> end_seq = MINE.seq; seen = 0; tries = 0; HEARD(); goto adopt }
    fi;

adopt:
    atomic {
        seq = end_seq + 1;
#ifndef READ_BEFORE_SEAL
        upto = SEQS; /* all below the seal */
#endif
        /* reader_cursors: folded backwards */
        cursor = 1; j = end_seq;
        do
        :: j > 0 && row_prog[j] != 0 -> cursor = row_prog[j]; break
        :: j > 0 && row_prog[j] == 0 -> j--
        :: j == 0 -> break
        od;
        j = 0;
        goto cursor_pump
    }

cursor_pump:
    atomic {
        do
        :: cursor < end_seq && !(row[cursor] == D && row_op[cursor] != 0 && cursor <= upto) -> cursor++
        :: cursor < end_seq && row[cursor] == D && row_op[cursor] != 0 && cursor <= upto ->
            DELIVER(row_op[cursor]); cursor++;
            if
            :: halves > 0 -> halves--; break
            :: true -> skip
            fi
        :: cursor == end_seq -> break
        od;
        goto send_batch
    }

send_batch:
    atomic { ROOM -> SEND(P, seq, 0, 0, cursor, 0) }
    if
    :: atomic { LOST -> skip; goto commit_resolve }
    :: atomic { !LOST && MINE.st == DUPLICATE_ROW -> HEARD(); goto lane_fenced }
    :: atomic { !LOST && MINE.st == STORED -> HEARD(); goto committed }
    fi;

committed:
    atomic {
        seq++;
        if
        :: cursor < end_seq -> skip; goto cursor_pump
        :: cursor == end_seq -> skip; goto run_drain
        fi
    }

commit_resolve:
lane_end_old:
    atomic { ROOM ->
#ifndef NO_END_OLD
        END_OLD(false);
#endif
        SEND(N, seq, 0, 0, 0, 0)
    }
    if
    :: atomic { LOST -> skip; goto commit_resolve }
    :: atomic { !LOST && MINE.st == STORED && MINE.won -> HEARD(); goto resolved_dead }
    :: atomic { !LOST && MINE.st == STORED && !MINE.won -> HEARD(); goto on_look }
    fi;

on_look:
    atomic {
        if
        :: row[seq] == S -> skip; goto lane_fenced
        :: row[seq] == P -> skip; goto committed
        :: row[seq] == N -> skip; goto resolved_dead
        fi
    }

resolved_dead:
    atomic { seq++; goto send_batch }

lane_fenced:
run_dropped:
    goto run_look;

run_drain:
    atomic { lane_lock == 0 ->
        if
        :: lane_run == me && sealed && !drained -> drained = 1
        :: else -> skip; goto run_look /* not ours any more */
        fi
    }
OVER:
    skip
    } unless { dead[me] }
    atomic { seen = 0; end_seq = 0; seq = 0; cursor = 0; j = 0; upto = 0; tries = 0; LOSE(me); done[me] = 1 }
}

/* What goes wrong, and the client that repeats the first operation at another replica. */
proctype FATE() {
    bit rival = RIVAL;
end:
    do
    :: atomic { losses > 0 && conn[0] != 0 -> losses--; LOSE(0) }
    :: atomic { losses > 0 && conn[1] != 0 -> losses--; LOSE(1) }
    :: atomic { losses > 0 && conn[2] != 0 -> losses--; LOSE(2) }
    :: atomic { crashes > 0 && !dead[0] && !done[0] -> crashes--; dead[0] = 1; LOSE(0) }
    :: atomic { crashes > 0 && !dead[1] && !done[1] -> crashes--; dead[1] = 1; LOSE(1) }
    :: atomic { rival && id[1] == 0 && !decided[1] -> rival = 0; decided[1] = 1; delivered[1] = 1;
        listed[1] = 1 }
    od
}

init {
    byte k;
    atomic {
        k = 0;
        do
        :: k < SEQS -> row[k] = NONE; k++
        :: else -> break
        od;
        k = 0;
        do
        :: k < SLOTS -> tx[k].st = FREE; tx[k].kind = NONE; run BACKEND(k); k++
        :: else -> break
        od;
        run RUN_OWNER(); run RUN_ADOPTER(1); run RUN_ADOPTER(2); run FATE()
    }
    done[0] && done[1] && done[2];
    atomic {
        /* An adopter lives: the lane is drained, nothing is left undelivered, and no OK was for nothing. */
        assert(drained);
        k = 1;
        do
        :: k <= OPS ->
            assert(!ok[k] || decided[k]);
            assert(!decided[k] || delivered[k]);
            k++
        :: else -> break
        od
    }
}
