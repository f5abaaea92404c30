/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps many requests under way, waits for them in another order than that in which they were sent, cancels some, looks
 * after one without waiting, and uses the tensors of answered requests again.
 */

#include <diolkos.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 48, ROUNDS = 4, ELEMENTS = 1000, SIDE = 1280 };

static void must(int32_t code, const char *what)
{
    if (code != DIOLKOS_OK) {
        fprintf(stderr, "%s: %s: %s\n", what, diolkos_code_name(code), diolkos_error());
        exit(1);
    }
}

static void expect(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s does not hold\n", what);
        exit(1);
    }
}

static void fill(diolkos_tensor *tensor, uint32_t value)
{
    size_t bytes = 0;
    uint32_t *elements = diolkos_tensor_data(tensor, &bytes);
    for (size_t at = 0; at < bytes / sizeof *elements; at++) {
        elements[at] = value;
    }
}

/* Each request has its own number as elements, so that no answer can be taken for another. */
static size_t many(const diolkos_client *client)
{
    const uint64_t dims[] = {ELEMENTS};
    diolkos_model *echo = NULL;
    diolkos_tensor *tensors[REQUESTS] = {NULL};
    diolkos_pending *pending[REQUESTS] = {NULL};
    size_t answered = 0;

    must(diolkos_open(client, "echo", 1, &echo), "open");
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t at = 0; at < REQUESTS; at++) {
            diolkos_input input = {"data", tensors[at]};
            if (input.tensor == NULL) {
                must(diolkos_tensor_new(client, DIOLKOS_UINT32, dims, 1, 0, &input.tensor), "tensor");
            }
            fill(input.tensor, round * REQUESTS + at);
            must(diolkos_submit(echo, &input, 1, NULL, &pending[at]), "submit");
            expect(input.tensor == NULL, "a tensor that was sent is taken");
            tensors[at] = NULL;
        }
        for (uint32_t back = REQUESTS; back > 0; back--) {
            const uint32_t at = back - 1;
            const uint32_t number = round * REQUESTS + at;
            diolkos_reply *reply = NULL;
            const diolkos_output *output = NULL;
            if (at % 7 != 3) {
                const uint32_t *elements = NULL;
                must(diolkos_wait(pending[at], DIOLKOS_FOREVER, &reply), "wait");
                must(diolkos_reply_named(reply, "data", &output), "output");
                elements = output->data;
                expect(output->data_type == DIOLKOS_UINT32 && output->rank == 1, "the type is that of the input");
                expect(output->dims[0] == ELEMENTS, "the shape is that of the input");
                expect(output->bytes == ELEMENTS * sizeof *elements, "the size follows from it");
                expect(elements[0] == number && elements[ELEMENTS - 1] == number, "the answer is to this request");
                must(diolkos_reply_take_input(reply, 0, &tensors[at]), "take_input");
                answered++;
            }
            diolkos_reply_free(reply);
            diolkos_pending_free(pending[at]); /* cancels every seventh */
        }
    }
    for (size_t at = 0; at < REQUESTS; at++) {
        diolkos_tensor_free(tensors[at]);
    }
    diolkos_model_free(echo);
    return answered;
}

/* A product that takes a while, so that looking for it at once finds nothing yet. */
static int look(const diolkos_client *client)
{
    const uint64_t dims[] = {SIDE, SIDE};
    const char *outputs[] = {"result"};
    diolkos_param alpha = {"alpha", DIOLKOS_PARAM_DOUBLE, {0}};
    diolkos_request request = {sizeof request, DIOLKOS_CLASS_INTERACTIVE, 0, 0, outputs, 1, &alpha, 1};
    diolkos_input inputs[] = {{"A", NULL}, {"B", NULL}};
    diolkos_model *sgemm = NULL;
    diolkos_pending *pending = NULL;
    diolkos_reply *reply = NULL;
    const diolkos_output *output = NULL;
    const float *result = NULL;
    int32_t code = 0;
    int looks = 0;

    alpha.value.number = 0.5;
    must(diolkos_open(client, "blas.sgemm", 0, &sgemm), "open");
    for (size_t at = 0; at < 2; at++) {
        size_t bytes = 0;
        float *elements = NULL;
        must(diolkos_tensor_new(client, DIOLKOS_FP32, dims, 2, 0, &inputs[at].tensor), "tensor");
        elements = diolkos_tensor_data(inputs[at].tensor, &bytes);
        for (size_t element = 0; element < bytes / sizeof *elements; element++) {
            elements[element] = (float)(at + 1);
        }
    }
    must(diolkos_submit(sgemm, inputs, 2, &request, &pending), "submit");
    while ((code = diolkos_wait(pending, 0, &reply)) == DIOLKOS_ERROR_TIMEOUT && looks < 3) {
        expect(reply == NULL, "there is no reply yet");
        looks++;
    }
    if (code == DIOLKOS_ERROR_TIMEOUT) {
        code = diolkos_wait(pending, DIOLKOS_FOREVER, &reply);
    }
    must(code, "wait");
    expect(diolkos_reply_count(reply) == 1, "one output was wanted");
    must(diolkos_reply_output(reply, 0, &output), "output");
    result = output->data;
    expect(output->bytes == sizeof *result * SIDE * SIDE, "the result has the size of a product");
    expect(result[0] == (float)SIDE && result[SIDE * SIDE - 1] == (float)SIDE, "half of 1 x 2, SIDE times");

    diolkos_pending_free(pending);
    diolkos_model_free(sgemm);
    diolkos_reply_free(reply);
    return looks;
}

int main(int argc, char **argv)
{
    diolkos_options options = {.size = sizeof options};
    diolkos_client *client = NULL;
    size_t answered = 0;
    int looks = 0;

    options.in_flight = 16; /* fewer than there will be: a request then waits until one before it has been answered */
    options.name = "pipeline";
    must(diolkos_connect(argc > 1 ? argv[1] : "env", &options, &client), "connect");
    answered = many(client);
    looks = look(client);
    diolkos_client_free(client);
    printf("%zu of %d requests answered, the others cancelled; looked %d times before the product was there\n", answered,
           REQUESTS * ROUNDS, looks);
    return 0;
}
