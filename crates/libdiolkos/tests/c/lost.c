/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon goes away between two calls. That is a code, and no signal: a program in C is not one in Rust, whose runtime
 * ignores SIGPIPE. Writes `ready` and goes on once a line comes in, and the daemon is gone.
 */

#include <diolkos.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int32_t code, const char *what)
{
    if (code != DIOLKOS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, diolkos_code_name(code), diolkos_error());
        exit(1);
    }
}

static diolkos_client *connected(const char *address, int32_t memory)
{
    diolkos_options options = {
        .size = sizeof options, .memory = memory, .reconnect_ms = DIOLKOS_NO_RECONNECT, .name = "lost"};
    diolkos_client *client = NULL;
    must(diolkos_connect(address, &options, &client), "connect");
    return client;
}

int main(int argc, char **argv)
{
    static const int32_t memories[] = {DIOLKOS_MEMORY_SHARED, DIOLKOS_MEMORY_PRIVATE};
    const uint64_t dims[] = {1000};
    diolkos_client *clients[2] = {NULL};
    diolkos_model *models[2] = {NULL};
    diolkos_input inputs[2] = {{"data", NULL}, {"data", NULL}};
    char line[16];

    for (size_t at = 0; at < 2; at++) {
        clients[at] = connected(argc > 1 ? argv[1] : "env", memories[at]);
        must(diolkos_open(clients[at], "echo", 0, &models[at]), "open");
        must(diolkos_tensor_new(clients[at], DIOLKOS_FP32, dims, 1, 0, &inputs[at].tensor), "tensor");
        memset(diolkos_tensor_data(inputs[at].tensor, NULL), 7, 4000);
    }
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL) {
        return 1;
    }
    for (size_t at = 0; at < 2; at++) {
        diolkos_reply *reply = NULL;
        diolkos_model *model = NULL;
        int32_t code = diolkos_infer(models[at], &inputs[at], 1, NULL, &reply);
        printf("%s: %s\n", diolkos_code_name(code), diolkos_error());
        if (code != DIOLKOS_ERROR_LOST && code != DIOLKOS_ERROR_CONNECT) {
            return 1;
        }
        /* The tensor is still there, with the values that it had. */
        if (inputs[at].tensor == NULL || *(const char *)diolkos_tensor_data(inputs[at].tensor, NULL) != 7) {
            return 1;
        }
        code = diolkos_open(clients[at], "echo", 0, &model);
        if (code != DIOLKOS_ERROR_LOST && code != DIOLKOS_ERROR_CONNECT) {
            return 1;
        }
        diolkos_tensor_free(inputs[at].tensor);
        diolkos_model_free(models[at]);
        diolkos_client_free(clients[at]);
    }
    printf("gone\n");
    return 0;
}
