// The machine in one unit: its parts would each spend most of their compilation on the same headers.
#include "schedule.cpp"
#include "barriers.cpp"
#include "order.cpp"
#include "memory.cpp"
#include "copies.cpp"
#include "hopper.cpp"
#include "warpgroups.cpp"
#include "collectives.cpp"
#include "hooks.cpp"
#if defined(GS_SANITIZED)
#include "sanitized.cpp"
#endif
