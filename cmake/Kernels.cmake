# THE table of what is compiled for an instruction set: source -> ISA name -> compiler flags. Adding an ISA is adding a row
# here and in csrc/dispatch/isas.cpp, which refuses to compile without its kernels, mel frames or row math.
#
# Each source fails to compile without its flags (#error), includes intrinsics and our static helpers only, and exports one
# symbol, its table: code that these flags produced must not be linked into what runs on every CPU.

# tests/cpp builds the kernels too, from a folder of its own.
if(NOT DEFINED WHISPERQ_ROOT)
    set(WHISPERQ_ROOT ${CMAKE_CURRENT_SOURCE_DIR})
endif()

set(WHISPERQ_KERNEL_ISAS scalar)
set(WHISPERQ_KERNEL_SOURCES ${WHISPERQ_ROOT}/csrc/kernels/scalar/table.cpp)
set(WHISPERQ_KERNEL_DEFINITIONS "")

function(whisperq_kernels isa source)
    set(source ${WHISPERQ_ROOT}/${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${ARGN};-ffp-contract=off")
    string(TOUPPER ${isa} upper)
    set(WHISPERQ_KERNEL_FLAGS_${isa} "${ARGN};-ffp-contract=off" PARENT_SCOPE)
    set(WHISPERQ_KERNEL_ISAS ${WHISPERQ_KERNEL_ISAS} ${isa} PARENT_SCOPE)
    set(WHISPERQ_KERNEL_SOURCES ${WHISPERQ_KERNEL_SOURCES} ${source} PARENT_SCOPE)
    set(WHISPERQ_KERNEL_DEFINITIONS ${WHISPERQ_KERNEL_DEFINITIONS} WHISPERQ_HAVE_${upper} PARENT_SCOPE)
endfunction()

# Mel frames and row math, once per width of vectors, from one source each (csrc/audio/mel_frames_impl.h,
# csrc/decoding/row_math_impl.h).
set(WHISPERQ_VECTOR_SOURCES
    ${WHISPERQ_ROOT}/csrc/audio/mel_frames_baseline.cpp ${WHISPERQ_ROOT}/csrc/decoding/row_math_baseline.cpp)
set_source_files_properties(${WHISPERQ_ROOT}/csrc/audio/mel_frames_baseline.cpp PROPERTIES COMPILE_OPTIONS
    -ffp-contract=fast)

function(whisperq_vectors width)
    set(sources ${WHISPERQ_ROOT}/csrc/audio/mel_frames_${width}.cpp ${WHISPERQ_ROOT}/csrc/decoding/row_math_${width}.cpp)
    set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${ARGN};-ffp-contract=fast")
    set(WHISPERQ_VECTOR_SOURCES ${WHISPERQ_VECTOR_SOURCES} ${sources} PARENT_SCOPE)
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    whisperq_vectors(avx2 -mavx2 -mfma)
    whisperq_vectors(avx512 -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
    whisperq_kernels(avx2 csrc/kernels/x86/avx2.cpp -mavx2 -mfma -mf16c -mbmi2)
    whisperq_kernels(avx512vnni csrc/kernels/x86/avx512vnni.cpp
        -mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512)
    whisperq_kernels(avx512bf16 csrc/kernels/x86/avx512bf16.cpp
        -mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16
        -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
    whisperq_kernels(neon csrc/kernels/arm/neon.cpp -march=armv8-a)
    whisperq_kernels(neon_dotprod csrc/kernels/arm/neon_dotprod.cpp -march=armv8.2-a+dotprod)
    whisperq_kernels(neon_i8mm csrc/kernels/arm/neon_i8mm.cpp -march=armv8.2-a+dotprod+i8mm)
endif()
