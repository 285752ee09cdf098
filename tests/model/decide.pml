/*
 * Who decides: Prepare, Confirm and Cancel of one transaction in any order and with lost answers, two checkers that claim
 * with tokens and leases that run out, an answer of any kind, STUCK, a person.
 *
 * Labels in small letters are steps, named as in services/ (see lane.pml). Each operation is the exact form of a batch of
 * its own: the optimistic form commits only what this one would.
 */
#ifndef LOSSES
#define LOSSES 1   /* commits whose answer is lost: aborted, or stored */
#endif
#ifndef EXPIRIES
#define EXPIRIES 1 /* leases that end while their check is under way */
#endif
#ifndef CONFIRMS
#define CONFIRMS 1 /* callers */
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef ASKERS
#define ASKERS 2
#endif
#define UNKNOWNS 2 /* answered ones until STUCK */

mtype = { PREPARE, CONFIRM, CANCEL };
mtype = { OK, NOT_FOUND, DECIDED_OTHERWISE };

#define CONTENT   1 /* headers */
#define TOMBSTONE 2
#define COMMITTED   1 /* decisions */
#define ROLLED_BACK 2

byte header, decision;         /* committed rows */
byte header_key, decision_key; /* who holds them uncommitted; ids of callers, 0 = nobody */
bit ok_cancel;

bit due, stuck, leased;        /* check_due */
byte token, unknowns;
byte losses = LOSSES, expiries = EXPIRIES, refusals = 1, calls;

#define WANTED(kind) (kind == CANCEL -> ROLLED_BACK : COMMITTED)

inline DROP(me) {
    if
    :: header_key == me -> header_key = 0
    :: else
    fi;
    if
    :: decision_key == me -> decision_key = 0
    :: else
    fi
}
inline STORE(me, kind) {
    if
    :: won_header -> assert(header == 0); header = (kind == CANCEL -> TOMBSTONE : CONTENT)
    :: else
    fi;
    if
    :: won_decision ->
        assert(decision == 0 || decision == WANTED(kind)); /* one decision, for ever */
        decision = WANTED(kind)
    :: else
    fi;
    DROP(me)
}

#ifdef FINISH_WITHOUT_TOKEN
#define HOLDS due
#else
#define HOLDS (due && token == mine)
#endif

inline OPERATION(me, kind, names_producer) {
    skip;
batch_send_headers:
    atomic {
        if
#ifdef NO_TOMBSTONE
        :: kind == PREPARE
#else
        :: kind == PREPARE || (kind == CANCEL && names_producer)
#endif
        -> header_key == 0;
            if
            :: header == 0 -> header_key = me; won_header = 1
            :: else
            fi
        :: else -> skip; goto batch_send_decisions
        fi;
        if
        :: kind == PREPARE -> skip; goto batch_send_commit
        :: else
        fi
    }
batch_send_decisions:
    atomic {
        /* What the statement sees: committed before it began, or its own. Then it may have to wait. */
        sees = (kind == CONFIRM -> header == CONTENT : header != 0 || won_header);
        if
        :: sees -> decision_key == 0;
            if
#ifdef DECISION_UPDATED
            :: true -> decision_key = me; won_decision = 1
#else
            :: decision == 0 -> decision_key = me; won_decision = 1
            :: decision != 0
#endif
            fi
        :: else
        fi;
        sees = 0
    }
batch_send_commit:
    atomic {
        if
        :: STORE(me, kind);
            if
            :: (kind == PREPARE && won_header) || won_decision ->
                won_header = 0; won_decision = 0; result = OK; goto answer_winner
            :: else -> skip; goto batch_send_readback
            fi
        /* the answer is lost, of one or the other: repeated under the same id */
        :: losses > 0 -> losses--; STORE(me, kind); won_header = 0; won_decision = 0; goto batch_send_headers
        :: losses > 0 -> losses--; DROP(me); won_header = 0; won_decision = 0; goto batch_send_headers
        fi
    }
batch_send_readback:
    atomic {
        won_header = 0;
judge:
        if
        :: kind == PREPARE && header == CONTENT -> result = OK
        :: kind == PREPARE && header == TOMBSTONE -> result = DECIDED_OTHERWISE
#ifdef NO_TOMBSTONE
        :: kind == CANCEL && header == 0 -> result = OK
        :: kind == CONFIRM && header == 0 -> result = NOT_FOUND
#else
        :: kind != PREPARE && header == 0 -> result = NOT_FOUND
#endif
        :: kind == CONFIRM && header == TOMBSTONE -> result = DECIDED_OTHERWISE
        :: kind == CANCEL && header == TOMBSTONE -> result = OK
        :: kind != PREPARE && header == CONTENT && decision == 0 -> skip; goto batch_send_headers
        :: kind != PREPARE && header == CONTENT && decision != 0 ->
            result = (decision == WANTED(kind) -> OK : DECIDED_OTHERWISE)
        fi
    }
answer_winner:
    atomic {
        /* No OK without the row that makes it true; none is ever changed (STORE), so it stays true. */
        assert(result != OK || kind != PREPARE || header == CONTENT);
        assert(result != OK || kind != CONFIRM || (decision == COMMITTED && header == CONTENT));
        assert(result != DECIDED_OTHERWISE || decision != 0);
        ok_cancel = ok_cancel || (kind == CANCEL && result == OK)
    }
}

proctype CALLER(byte me; mtype kind; bit names_producer) {
    bit won_header, won_decision, sees;
    mtype result;
again:
    OPERATION(me, kind, names_producer);
    if
    :: result == NOT_FOUND && header != 0 -> skip; goto again /* a Confirm that came first */
    :: true /* or the caller gives up */
    fi;
    atomic { result = 0; calls-- }
}

/* Who is undecided gets a row; once decided it is swept away, wherever it stands. */
proctype FINDER() {
end:
    header == CONTENT;
undecided:
    if
    :: decision == 0 ->
check_adds:
        due = 1
    :: decision != 0
    fi
}
proctype SWEEPER() {
end:
    do
    :: atomic { due && decision != 0 ->
sweep_checks:
        due = 0; stuck = 0; leased = 0 }
    od
}

proctype ASKER(byte me) {
    bit won_header, won_decision, sees;
    byte mine, seen;
    mtype result, kind;
end:
    if
    :: atomic { due && !stuck && (!leased || expiries > 0) ->
claim_checks:
        if
        :: leased -> expiries--
        :: else
        fi;
        if
        :: decision != 0 -> due = 0; leased = 0; goto end
        :: else -> token++; mine = token; seen = unknowns; leased = 1
        fi }
    fi;
answer_read:
    if
    :: kind = CONFIRM; goto decide
    :: kind = CANCEL; goto decide
    :: goto end_unknown
    :: atomic { refusals > 0 -> refusals--; goto end_unreachable }
    fi;
decide:
    OPERATION(me, kind, 0);
end_decided:
    atomic {
        if
        :: HOLDS -> due = 0; leased = 0
        :: else
        fi;
        goto FORGET
    }
end_unknown:
    atomic {
        if
        :: HOLDS ->
            /* nothing moves backwards: a stale one would take answers, or STUCK, away */
            assert(seen + 1 > unknowns && !stuck);
            unknowns = seen + 1; leased = 0; stuck = (unknowns >= UNKNOWNS);
            assert(unknowns <= token)
        :: else
        fi;
        goto FORGET
    }
end_unreachable:
    atomic {
        if
        :: HOLDS -> assert(seen == unknowns); leased = 0
        :: else
        fi
    }
FORGET:
    atomic { mine = 0; seen = 0; kind = 0; result = 0 }
    goto end
}
proctype PERSON() {
    bit won_header, won_decision, sees;
    mtype result, kind;
end:
    stuck;
    if
    :: kind = CONFIRM
    :: kind = CANCEL
    fi;
    OPERATION(6, kind, 0)
}

init {
    atomic {
        calls = 1 + CONFIRMS + CANCELS;
        run CALLER(1, PREPARE, 0);
#if CONFIRMS
        run CALLER(2, CONFIRM, 1);
#endif
#if CANCELS
        run CALLER(3, CANCEL, 1);
#endif
#if ASKERS > 0
        run FINDER(); run SWEEPER(); run PERSON(); run ASKER(4);
#endif
#if ASKERS > 1
        run ASKER(5);
#endif
        skip
    }
    calls == 0;
    timeout;
    /* Nothing moves any more: nobody is left undecided, and no check is left over. */
    assert(!ok_cancel || decision == ROLLED_BACK);
    assert(ASKERS == 0 || header != CONTENT || decision != 0);
    assert(decision != COMMITTED || header == CONTENT);
    assert(!due)
}
