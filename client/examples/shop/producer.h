/* What the two producers of the shop share. Links with libtxmsg. */
#pragma once

#include <txmsg/txmsg.h>

/*
 * A client of the service at TXMSG for this producer. Its checks come over streams that it holds open, so nobody has to listen for them; they are
 * answered by the record of local transactions. Ends the process if there is no client.
 */
txmsg_client *producer_client(const char *producer);
