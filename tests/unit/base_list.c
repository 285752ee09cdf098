/* Lists keep their order through splices; the map finds, removes and empties, whatever the hashes are. */
#include "base/list.h"

#include "base/mem.h"
#include "base/uuid.h"

#include <setjmp.h>
#include <cmocka.h>

struct item {
    struct list link;
    int n;
};

static void check_order(struct list *l, const char *want) {
    char got[32];
    size_t at = 0;
    LIST_FOR (p, l)
        got[at++] = (char)('0' + LIST_ENTRY(p, struct item, link)->n);
    got[at] = '\0';
    assert_string_equal(got, want);
}

static void test_list(void **state) {
    struct list a, b;
    struct item items[6];
    list_init(&a);
    list_init(&b);
    for (int i = 0; i < 6; i++)
        items[i].n = i;
    list_add_tail(&a, &items[1].link);
    list_add_tail(&a, &items[2].link);
    list_add_head(&a, &items[0].link);
    for (int i = 3; i < 6; i++)
        list_add_tail(&b, &items[i].link);
    list_splice_tail(&a, &b);
    assert_true(list_empty(&b));
    check_order(&a, "012345");
    list_splice_tail(&a, &b);
    list_splice_head(&b, &a);
    check_order(&b, "012345");
    list_add_tail(&a, &(struct item){.n = 9}.link);
    list_splice_head(&b, &a);
    check_order(&b, "9012345");
    assert_int_equal(LIST_ENTRY(list_pop(&b), struct item, link)->n, 9);
    list_del(&items[3].link);
    list_del(&items[3].link); /* harmless */
    check_order(&b, "01245");
    LIST_FOR_SAFE (p, &b)
        list_del(p);
    assert_null(list_pop(&b));
}

struct entry {
    struct hnode node;
    uint64_t key;
};

static struct entry *find(struct hmap *m, uint64_t key, uint64_t hash) {
    for (struct hnode *h = hmap_first(m, hash); h; h = hmap_next(h, hash)) {
        struct entry *e = CONTAINER_OF(h, struct entry, node);
        if (e->key == key)
            return e;
    }
    return NULL;
}

#define COUNT 5000

/* The map against an array, for good, poor and useless hashes. */
static void check_map(uint64_t (*hash)(uint64_t), size_t count) {
    struct hmap m;
    CLEANUP_FREE struct entry *entries = mem_calloc(count, sizeof(*entries));
    assert_int_equal(hmap_init(&m, 0), 0);
    for (size_t i = 0; i < count; i++) {
        entries[i].key = i;
        assert_null(find(&m, i, hash(i)));
        hmap_add(&m, &entries[i].node, hash(i));
    }
    assert_int_equal(m.count, count);
    for (size_t i = 0; i < count; i += 2)
        hmap_del(&m, &entries[i].node);
    for (size_t i = 0; i < count; i++)
        assert_ptr_equal(find(&m, i, hash(i)), i % 2 ? &entries[i] : NULL);
    size_t left = 0;
    for (struct hnode *h; (h = hmap_any(&m)); left++)
        hmap_del(&m, h);
    assert_int_equal(left, count / 2);
    assert_int_equal(m.count, 0);
    hmap_add(&m, &entries[0].node, hash(0)); /* below the place where emptying stopped */
    assert_ptr_equal(hmap_any(&m), &entries[0].node);
    hmap_deinit(&m);
    hmap_deinit(&m);
}

static uint64_t hash_good(uint64_t key) {
    return hash_bytes(&key, sizeof(key), 1);
}
static uint64_t hash_identity(uint64_t key) {
    return key;
}
static uint64_t hash_high(uint64_t key) {
    return key << 40;
}
static uint64_t hash_same(uint64_t key) {
    return 42;
}

static void test_map(void **state) {
    check_map(hash_good, COUNT);
    check_map(hash_identity, COUNT);
    check_map(hash_high, COUNT);
    check_map(hash_same, 200);
}

static void test_map_cannot_grow(void **state) {
    struct hmap m;
    struct entry entries[64];
    assert_int_equal(hmap_init(&m, 8), 0);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        mem_fail_at(1);
        entries[i].key = i;
        hmap_add(&m, &entries[i].node, hash_good(i));
    }
    mem_fail_at(0);
    assert_int_equal(m.mask, 7);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++)
        assert_ptr_equal(find(&m, i, hash_good(i)), &entries[i]);
    hmap_deinit(&m);
    mem_fail_at(1);
    assert_int_equal(hmap_init(&m, 8), -ENOMEM);
}

/* Ids have fixed bits; they must still spread: as many slots in use as random hashes would use (63 %), roughly. */
static void test_uuid_spread(void **state) {
    static struct hnode nodes[4096];
    struct hmap m;
    size_t used = 0;
    assert_int_equal(hmap_init(&m, ARRAY_LEN(nodes)), 0);
    for (size_t i = 0; i < ARRAY_LEN(nodes); i++) {
        struct uuid u;
        uuid_v7_make(1700000000000, &u);
        hmap_add(&m, &nodes[i], uuid_hash(&u));
    }
    for (size_t i = 0; i <= m.mask; i++)
        used += m.slots[i] != NULL;
    assert_true(used > 4096 * 55 / 100);
    hmap_deinit(&m);
}

static void test_hash(void **state) {
    uint8_t text[64] = {0};
    uint64_t seen[65];
    for (size_t n = 0; n <= 64; n++) {
        seen[n] = hash_bytes(text, n, 7); /* zeros of any length differ */
        for (size_t k = 0; k < n; k++)
            assert_true(seen[n] != seen[k]);
    }
    assert_true(hash_bytes("a", 1, 1) != hash_bytes("a", 1, 2));
    assert_true(hash_bytes(NULL, 0, 1) == hash_bytes("", 0, 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),        cmocka_unit_test(test_map),  cmocka_unit_test(test_map_cannot_grow),
        cmocka_unit_test(test_uuid_spread), cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
