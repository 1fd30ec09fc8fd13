#!/bin/sh
# unwind.sh GCC DIR MACHINE: compile libgcc's unwinder into DIR: libgcc_eh.a and libgcc_s.so.1.
#
# It is what exceptions go through the stack with. The compiler's own is for another C library. GCC
# is gcc's source; MACHINE the header there, below libgcc/config, that knows signal frames. Needs
# CC, AR.
set -eu
gcc=$(cd "$1" && pwd)
cd "$2"

# What gcc's own build would write. This processor's registers need no mapping to columns.
touch tconfig.h libgcc_tm.h auto-target.h
echo '#define DWARF_REG_TO_UNWIND_COLUMN(number) (number)' >tm.h
cp "$gcc/libgcc/gthr-posix.h" gthr-default.h
cp "$gcc/libgcc/unwind-generic.h" unwind.h
cp "$gcc/libgcc/config/$3" md-unwind-support.h
for name in unwind-dw2 unwind-dw2-fde-dip unwind-c; do
	$CC $CFLAGS -fPIC -fexceptions -fbuilding-libgcc -Werror=implicit-function-declaration \
		-DIN_GCC -DIN_LIBGCC2 -DUSED_FOR_TARGET -DHAVE_LD_EH_FRAME_HDR -DTARGET_DL_ITERATE_PHDR \
		-DGTHREAD_USE_WEAK=0 -I. -I"$gcc/libgcc" -I"$gcc/gcc" -I"$gcc/include" \
		-c "$gcc/libgcc/$name.c"
done
$AR rcs libgcc_eh.a ./*.o
$CC -shared -Wl,--eh-frame-hdr -Wl,-soname,libgcc_s.so.1 -o libgcc_s.so.1 ./*.o
