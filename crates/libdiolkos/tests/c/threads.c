/* SPDX-License-Identifier: Apache-2.0 */
/* Threads share a client and a model. Each gets its own answers, and has its own last error. */

#include <diolkos.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, ROUNDS = 200, ELEMENTS = 64 };

static diolkos_client *client = NULL;
static diolkos_model *echo = NULL;

static void must(int32_t code, const char *what)
{
    if (code != DIOLKOS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, diolkos_code_name(code), diolkos_error());
        exit(1);
    }
}

static void *ask(void *argument)
{
    const uint64_t dims[] = {ELEMENTS};
    const uint64_t thread = *(const uint64_t *)argument;
    char name[32];
    diolkos_model *none = NULL;

    if (strcmp(diolkos_error(), "") != 0) {
        return argument;
    }
    snprintf(name, sizeof name, "unknown-%d", (int)thread);
    if (diolkos_open(client, name, 0, &none) != DIOLKOS_STATUS_NOT_FOUND) {
        return argument;
    }
    for (uint64_t round = 0; round < ROUNDS; round++) {
        diolkos_input input = {"data", NULL};
        diolkos_reply *reply = NULL;
        const diolkos_output *output = NULL;
        uint64_t *elements = NULL;
        must(diolkos_tensor_new(client, DIOLKOS_UINT64, dims, 1, 0, &input.tensor), "tensor");
        elements = diolkos_tensor_data(input.tensor, NULL);
        for (size_t at = 0; at < ELEMENTS; at++) {
            elements[at] = thread * ROUNDS + round;
        }
        must(diolkos_infer(echo, &input, 1, NULL, &reply), "infer");
        must(diolkos_reply_output(reply, 0, &output), "output");
        for (size_t at = 0; at < ELEMENTS; at++) {
            if (((const uint64_t *)output->data)[at] != thread * ROUNDS + round) {
                return argument;
            }
        }
        diolkos_reply_free(reply);
    }
    return strstr(diolkos_error(), name) == NULL ? argument : NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    uint64_t numbers[THREADS];
    int wrong = 0;

    must(diolkos_connect(argc > 1 ? argv[1] : "env", NULL, &client), "connect");
    must(diolkos_open(client, "echo", 0, &echo), "open");
    for (size_t at = 0; at < THREADS; at++) {
        numbers[at] = at;
        if (pthread_create(&threads[at], NULL, ask, &numbers[at]) != 0) {
            return 1;
        }
    }
    for (size_t at = 0; at < THREADS; at++) {
        void *failed = NULL;
        pthread_join(threads[at], &failed);
        wrong += failed != NULL;
    }
    diolkos_model_free(echo);
    diolkos_client_free(client);
    printf("%d threads of %d went wrong\n", wrong, THREADS);
    return wrong;
}
