/* SPDX-License-Identifier: Apache-2.0 */
/* Forgets a client. Only a sanitizer that notices this proves anything about the other programs. */

#include <diolkos.h>

int main(int argc, char **argv)
{
    diolkos_client *client = NULL;
    if (diolkos_connect(argc > 1 ? argv[1] : "env", NULL, &client) != DIOLKOS_OK) {
        return 0;
    }
    client = NULL;
    return client != NULL;
}
