/* Many threads created and ended, so many at a time as the second argument says, with blocks that outlive their thread: resident size
 * returns to the start, but for what so many threads at once may leave in reserve. */
#include "check.h"

enum { MOST = 64, BLOCKS = 40, WARM = 960 };

struct parcel {
    void *blocks[BLOCKS];
    size_t sizes[BLOCKS];
    uint64_t seed;
};

static void *work(void *arg)
{
    struct parcel *parcel = arg;
    uint64_t random = parcel->seed * 2654435761u + 1;
    for (int i = 0; i < BLOCKS; i++) {
        size_t size = 1 + next_random(&random) % (i % 10 == 0 ? 20000 : 600);
        parcel->blocks[i] = malloc(size);
        CHECK(parcel->blocks[i] != NULL);
        fill(parcel->blocks[i], size, parcel->seed + (uint64_t)i);
        parcel->sizes[i] = size;
    }
    for (int i = 0; i < BLOCKS; i += 2) {
        free(parcel->blocks[i]);
        parcel->blocks[i] = NULL;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    int wanted = atoi(argv[1]), at_once = atoi(argv[2]);
    CHECK(at_once >= 8 && at_once <= MOST && WARM % at_once == 0);
    static struct parcel parcels[MOST];
    pthread_t threads[MOST];
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 128 << 10) == 0);
    size_t start = 0;
    for (int done = 0; done < wanted; done += at_once) {
        if (done == WARM) start = resident();
        for (int t = 0; t < at_once; t++) {
            parcels[t].seed = (uint64_t)(done + t) * 1000;
            CHECK(pthread_create(&threads[t], &attributes, work, &parcels[t]) == 0);
        }
        for (int t = 0; t < at_once; t++) {
            CHECK(pthread_join(threads[t], NULL) == 0);
            for (int i = 1; i < BLOCKS; i += 2) {
                CHECK(intact(parcels[t].blocks[i], parcels[t].sizes[i], parcels[t].sizes[i], parcels[t].seed + (uint64_t)i));
                free(parcels[t].blocks[i]);
            }
        }
    }
    CHECK(resident() < start + (size_t)at_once / 8 * (2 << 20));
    return ok();
}
