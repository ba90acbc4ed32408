// The dynamic shared memory, under the name that the kernel declares it by. Linked last, so that it ends the module's
// thread-local memory, which stands for all shared memory.
alignas(1024) thread_local unsigned char GS_DYNAMIC[232448];
extern "C" unsigned char* gs_dynamic_shared() { return GS_DYNAMIC; }
