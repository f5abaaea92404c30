/* SPDX-License-Identifier: Apache-2.0 */
/* The header is one of C++, too, and its functions are found. */

#include <diolkos.h>

int main()
{
    diolkos_options options = {};
    options.size = sizeof options;
    options.waiting = DIOLKOS_WAITING_BLOCKING;
    options.reconnect_ms = DIOLKOS_NO_RECONNECT;
    diolkos_client *client = nullptr;
    const int code = diolkos_connect("unix:/nowhere/d.sock", &options, &client);
    diolkos_client_free(client);
    return code == DIOLKOS_ERROR_CONNECT && client == nullptr ? 0 : 1;
}
