// Compiled with the kernel: calls its entry with the arguments of a launch, whatever their types are.
#include "cuda_builtins.h"
#define memcpy gs_memcpy
#define memset gs_memset
#include GS_KERNEL

namespace {
template <size_t...> struct Places {};
template <size_t N, size_t... I> struct Count : Count<N - 1, N - 1, I...> {};
template <size_t... I> struct Count<0, I...> { using type = Places<I...>; };
template <class... P, size_t... I> GS_UNSEEN void call(void (*entry)(P...), void** a, Places<I...>) { entry(*(P*)a[I]...); }
template <class... P> GS_UNSEEN void invoke(void (*entry)(P...), void** a) { call(entry, a, typename Count<sizeof...(P)>::type()); }
}  // namespace

extern "C" GS_UNSEEN void gs_invoke(void** arguments) { invoke(GS_ENTRY, arguments); }
