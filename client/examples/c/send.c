/*
 * A message together with a local transaction:
 *
 *     cc send.c $(pkg-config --cflags --libs libtxmsg) -o send && ./send orders '{"item": "tea"}'
 *
 * The local transaction stands for the caller's own: it commits to its database, with the id beside its data, so that a check can be answered.
 */
#include <stdio.h>
#include <string.h>
#include <txmsg/txmsg.h>

static enum txmsg_decision place_order(void *arg, const txmsg_id *id) {
    printf("BEGIN; INSERT INTO orders VALUES ('%s', '%s'); COMMIT\n", id->text, (const char *)arg);
    return TXMSG_COMMITTED; /* only after a commit that was seen; in doubt TXMSG_UNDECIDED */
}

int main(int argc, char **argv) {
    txmsg_options *options = txmsg_options_new();
    txmsg_message *message = argc > 2 ? txmsg_message_new(argv[1]) : NULL;
    txmsg_result *result = txmsg_result_new();
    txmsg_client *client = NULL;
    txmsg_id id = {""};
    int status = TXMSG_ERROR_INVALID;

    if (argc > 3)
        (void)txmsg_options_add_address(options, argv[3]); /* else 127.0.0.1:7400 */
    if (message && txmsg_message_set_body(message, argv[2], strlen(argv[2])) == TXMSG_OK &&
        txmsg_options_set_producer(options, "shop") == TXMSG_OK && txmsg_client_new(options, &client) == TXMSG_OK) {
        const txmsg_message *const messages[] = {message};
        status = txmsg_send_in_transaction(client, &id, messages, 1, place_order, argv[2], NULL, result);
    }
    printf("%s %s %s %s\n", txmsg_status_name(status), id.text, txmsg_result_reason(result),
           txmsg_result_message(result));
    txmsg_client_free(client);
    txmsg_result_free(result);
    txmsg_message_free(message);
    txmsg_options_free(options);
    return status == TXMSG_OK ? 0 : 1;
}
