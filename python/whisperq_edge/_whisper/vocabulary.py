"""Whisper's two vocabularies, for models that come without one.

A vocabulary here is the bytes of each text token by its id. The special tokens that follow (languages, tasks, times)
have no text, and their ids follow from ``n_vocab``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Optional

from .._core import read_model_file
from .._errors import InternalError, UnsupportedModelError
from .._system.native import data_file
from .._whisper.dims import VOCAB_SIZES, is_multilingual, n_text_tokens

__all__ = [
    "END_OF_TEXT",
    "LEAST_TOKENS",
    "LONGEST_TOKEN_BYTES",
    "check_vocabulary",
    "describe_difference",
    "known_vocabulary",
    "token_bytes",
    "token_spelling",
    "vocabulary_name",
]

END_OF_TEXT = "<|endoftext|>"
"""The first special token of both vocabularies: what stands before it is text."""

LEAST_TOKENS = n_text_tokens(False)
LONGEST_TOKEN_BYTES = 256
"""What the ggml reader asks of a vocabulary (csrc/model/file_format.cpp)."""

# Number of text tokens and SHA-256 over all of them, each as its length (uint32) and its bytes.
_KNOWN = {
    "english": (n_text_tokens(False), "7cff19521369c7f5f5ed77ed7b730e7491800afb47d01d341e12b3ca740d8543"),
    "multilingual": (n_text_tokens(True), "7a1796f07fce01ae84cc2f83b9a72da17dc652ddc339cb113edcc4c60094f418"),
}
_NAMES = {size: "multilingual" if is_multilingual(size) else "english" for size in VOCAB_SIZES}


# ---- Vocabularies ----------------------------------------------------------------------------------------------------


def vocabulary_name(n_vocab: int) -> str:
    """``english`` or ``multilingual``: which vocabulary a model of this size was trained with.

    Raises:
        UnsupportedModelError: no Whisper has this size.
    """
    if n_vocab not in _NAMES:
        raise UnsupportedModelError(f"n_vocab is {n_vocab}; a Whisper model has {', '.join(map(str, _NAMES))}")
    return _NAMES[n_vocab]


def known_vocabulary(n_vocab: int) -> list[bytes]:
    """Bytes of Whisper's own text tokens by id: 50257 of them.

    The English vocabulary has 50256 and is followed here by ``<|endoftext|>``, as in the files of whisper.cpp.

    Raises:
        UnsupportedModelError: no Whisper has this size.
    """
    return list(_known_vocabulary(vocabulary_name(n_vocab)))


def check_vocabulary(tokens: Sequence[bytes], n_vocab: int) -> Optional[str]:
    """``english`` or ``multilingual`` when the text tokens are those that Whisper has for ``n_vocab``, else None.

    Special tokens that follow the text are not looked at: converters differ in whether they write them.
    """
    name = _NAMES.get(n_vocab, "")
    n_text, digest = _KNOWN.get(name, (0, ""))
    if not name or not n_text <= len(tokens) <= n_vocab:
        return None
    return name if _digest(tokens[:n_text]) == digest else None


def describe_difference(tokens: Sequence[bytes], n_vocab: int) -> str:
    """In words, how a vocabulary that :func:`check_vocabulary` does not know differs from Whisper's own."""
    name = vocabulary_name(n_vocab)
    n_text = _KNOWN[name][0]
    if len(tokens) < n_text:
        return f"it has {len(tokens)} tokens where Whisper's {name} one has {n_text}"
    pairs = [(own, their) for own, their in zip(_known_vocabulary(name)[:n_text], tokens) if own != their]
    if all(own.decode("utf-8", "replace").encode() == their for own, their in pairs):
        return (
            f"{len(pairs)} of its tokens lost bytes that are no whole character (an old converter of whisper.cpp did"
            " that), so that letters outside of ASCII may come out as \N{REPLACEMENT CHARACTER}"
        )
    return f"{len(pairs)} of its {n_text} text tokens differ from Whisper's {name} ones"


def token_bytes(token: str) -> Optional[bytes]:
    """The bytes of a token as GPT-2's files spell it (``Ġhello``: one printable character a byte), or None when it has
    a character that stands for no byte."""
    try:
        return bytes(map(_byte_of_character().__getitem__, token))
    except KeyError:
        return None


def token_spelling(token: bytes) -> str:
    """The inverse of :func:`token_bytes`."""
    return "".join(_character_of_byte()[byte] for byte in token)


@functools.cache
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in _byte_of_character().items()}


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes of Latin-1 are themselves, the others follow from U+0100 on in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


def _digest(tokens: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(struct.pack("<I", len(token)) + token for token in tokens)).hexdigest()


@functools.cache
def _known_vocabulary(name: str) -> tuple[bytes, ...]:
    if name == "english":
        tokens = read_model_file(data_file("assets/ggml-nano.en.bin")).vocabulary
    else:
        tokens = _repaired(_read_tokens(data_file("assets/vocabulary-multilingual.bin").read_bytes()))
    n_text, digest = _KNOWN[name]
    if _digest(tokens[:n_text]) != digest:
        raise InternalError(f"the {name} vocabulary in the installed package is damaged: install whisperq-edge again")
    return tuple(tokens)


def _read_tokens(data: bytes) -> list[bytes]:
    """The vocabulary of a ggml file without tensors (which ``read_model_file`` refuses): 12 int32 of header, the mel
    filters, the tokens."""

    def take(at: int, n_bytes: int) -> bytes:
        if n_bytes > len(data) - at:
            raise InternalError("a vocabulary in the installed package is damaged: install whisperq-edge again")
        return data[at : at + n_bytes]

    def number(at: int) -> int:
        return int.from_bytes(take(at, 4), "little")

    n_mel, n_fft = number(48), number(52)
    at = 56 + 4 * n_mel * n_fft
    n_tokens = number(at)
    at += 4
    tokens = []
    for _ in range(n_tokens):
        tokens.append(take(at + 4, number(at)))
        at += 4 + len(tokens[-1])
    return tokens


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


def _repaired(tokens: list[bytes]) -> list[bytes]:
    """The tokens as openai/whisper has them.

    Upstream's file went through a converter that turned bytes which are no whole character into U+FFFD: 1476 tokens,
    among them parts of most Chinese and Japanese characters. ``_REPAIRS`` has the bytes of every token in which U+FFFD
    stands.
    """
    packed = zlib.decompress(base64.b85decode(_REPAIRS))
    damaged = [i for i, token in enumerate(tokens) if _REPLACEMENT in token]
    lengths, at = packed[: len(damaged)], len(damaged)
    for i, n_bytes in zip(damaged, lengths):
        tokens[i] = packed[at : at + n_bytes]
        at += n_bytes
    return tokens


# ---- Data ------------------------------------------------------------------------------------------------------------

# Lengths (a byte each), then the bytes, of the tokens that _repaired() puts back; zlib, base 85. From openai/whisper's
# multilingual.tiktoken: tests/whisper/test_convert_vocabulary.py makes it again and compares.
_REPAIRS = (
    "c-qBRX;&Ltc3q8BGM%?p|AzYu@}IKahorycH)tqfAtXyOg^)lKMiW?=LMlK40ZDhiPG{(DcM?Z_8HI37I=9+n=*~Rsb4%FoW#xM?SW?xkGwid^K1bj"
    "A&j0Vv+FAs^_*?x%zWs)8s(+uaeLk_e`E*J9--f<<lRt!aBT;_UzU?jg>B-QldK3M87k_Ip^*`U$KKY1hYu|7Z(IV_58eWO~U)iwz=*o?HS_|*RqE9"
    "jNbv_bWe)g@0*#qB;t^(E&W8^8^wMc9&rY=S_WklK2LQ7HY>CmUhA}i3=G)+CU#?P%TYGDxC%JCBtS_qvMM$iAW74~>?edY3#Q+|!E(pv!;f){-PkW"
    "H;=PZiRl{8>5ILcg#Y8dz6Vh=!)sM}!-VMpt;M5Y;X1Q#jGj$*qNW#*}H53?h%Mg$0hp!gRD%ak+f#E~Z6SVLgEYhX`F$iE{)R-lJ}jXb2bHN1p1b#"
    "c*;x2Jfl{>c|)T_}a?X=Q!~jc@|z{)0)Pagbav;B+wA6rb@r!g-Qi4QI4E#tw%$PDh~LJsTY{z`otn^Q+pz^dO%a}wY6uFwbjuW6aE>B7*Uu<l)n%H"
    "*o%Zkk3Q4Zwe>JCEkxnj+WK!W88xJ=ts`;{mK#BPidBn+3<xV3Q@jFKxZ0`#*6|KMDi!=Oipt<BTu^tNAy8Q`ccT21!kziWv8zU0XF$Fi(u|Q-P%6%"
    "7?2exUan>Utdg^wVw*pF;0u^GB$T|nZh#_rN=ZN+NKZHZLAB~2bil{g1K!o9lBFPBb;hL+%8u;_Q*qXAw9(JNS6#GIQjKz=<;}C;eKoDE|-rBl~1h&"
    "_s>ya-)VAj6NS@2cu8ApO=V~Xlb#C0x)LNa>r>agAE_WDQ1uLo~V&9mXiI={FaPp+<~H@A1c_xnHi;g7!h@gMx;5C7<o|Kz7X`}x~n{OO<l`MbZEz5"
    "n_z|LU**=5POQe!qD5U^}koFG&W!{P_6y|L~9h^s8V0^S}J-zy14v{O5oDcRZ0y>FJH<na%80F8`uXEWO+|cFMbz>fU~>-e|T?#9JZX-oAZE2zqP2e"
    "S7{^EM#5$P%Izf!OlaHw&r88sEXPA%_9C`EPi3hhZJSSBEB@2Bk?o2D*_?wd&d2>kUJI$*%0qVu(KR~xRSm3>6o0#=<TieTJAVCCnJ`Z?w%~$=7($9"
    "_;9lvOI^s;Y-cv0`9x6f{z@!OyDffD&}Y@zl<ZE04r+1>&yC3>nH7{2a@UTFAK8T(*|)NlAwS+72-(Y<c3Q|voCKM6al3855whHw+L<#mN8;zQCTPp"
    "9iRDnt--w4qai-IeRi6r(lx0f_IH8eS^SVgKqUGenq)kQglY(@)_u<x{Mb+MMhTff@khLiieI=G7dAK}p%#synQ&y-aWJb`jJ#h^|MekUz*`-`u(1n"
    "mGF*9aPT&C=8x!)&yzx90Hh99`qWzxSAv*PR_t+H$iS$%9aDk_RI`_4HL%du1DsAM@)nw=D#y7<bAJG+7g_NgWHTI>08m}>_u1htpCkrO!-a>Ge^12"
    "^gD_E^X^kU(u{M*xN8nOL5?x|r2wf+qG0JL^;h^_{+urra1Jg@Rx9PVKUN8C1M;JOA<S<K2y4Z)Ci_yYB+(!-Jfx%1nj^g7SJ>%o;PhYj4<75mesy-"
    "nZJ)Tweaz1SNu<3i;37=6n*Lj~zn<ReLkYI)ejKyzhOjzZbL8ET~@S_AUVMubYGI8ePQwefzn61@l%f$ANp7r${0>AjjN6y(Zf&w|Ycd8QN-lN3!h!"
    "_@Vba(4CR96{LjRcV4(V?xuS#f?R#N9JPeZ%5<<}NoQwdnbd`w<=6xul`f2C-CO6hJK%FPT%MWaGz1wRrsA<_-*|7DrkxP-LQtj!3T0Iw4cAhTmOtF"
    "ty&wnXSh6{w@(d}$jeBBm1qn{xePN%7!0-<96+xwKu6ba%z_^zqFX8sY(yCAaO|Uy4f45NeTZ6G!PI7T_3u4}OVEPD@C##nsQv|7?JnslfAE*7QXYL"
    "k3w?6HE-+t*JcGKVz=g5EED4`j3LR~~qaKXRp`V?dbRgP~20;}68!*KS&w<-B>vDGGLEH7lX9h^?Zm-pB984P5I($erQWLHpPqI<V|&O1mB>|DnR(i"
    "`V~g%gL<4M8XFwSNGv$H~i}3)|qL)tXgP9k<`g$gLU`E6i@UDC=WFlcP=Ljlbs=>))r5-2!Yi7|IsOhS6<>2LSDib=q#<Paf+cc;TD}FMDzCwFveZW"
    "%5(Op5U05*Y2A`kT1(Mk#=%<J|GW0u<aBM>VCJ?QHGQLp?5NvI*IwP_gk`2Bo~&-UiBg#=%!<pYH<_?IufU)<xQQmzayuqqK`HQRlH4f8@KDZdkGDy"
    "5Qyt`oU^WJ>-J%KClBmpWdMb0lirql#v$5iBS(+T3Ir}r&NeELHJs-`0p%N0kaQFBT2R?O@J2|uMovcryBW$?f-ND9uI@LTqfii#%$9rPWeuPv2#6f"
    "iypn@PID1Hq9#YPwTbHj|V^wlAg*@<*jS6|_zPd?ylli(S8yx@$BE1v<?H$8s*OA6f&TWs;5XG8!NFgzcN=0`ht%ua~A=RA9o314jy*fy5Ns#iO=I%"
    "b$D>V+G)13<L78*L&jiO*g(KhIwH_p}k!fuZF^eg8OdNC#UM)k-pjv<`_)ND$@Zn75aTL{rA9{1fV!7`H$slln3U@VAJ&_`3-aGEBhYsxwbR&#|F^G"
    ";I<@5%;{2yRg^P{H|Sf9&0eFTZlrL!C<iN(LKY*XHQR99V8y;o3m&ccyY!p?tr4BggL0vl_ELRJ}#+oe0vSv0rn$F3Qo4QzI_qrh$|yc<3S#WXE*D+"
    "-$XR-gyPBcu`0r!J?M}7nJJE%?XqT^W=JfB<P^d6rzI`^G8<tKs}4cDT9w5`mLo?-tb<X%j>q?zsPW=#aRvBfSZ4Efi^X3l!4^d>Nn0yeT*4XVbWz}"
    "LXHFzjkX4W1R}%pjCw_BxTjFVB0Pb6BG_=p{suzeQL=mVyT8qa@h~%?8Fuw4YH(MFQ=NL5!yGz;oP*X3Q~qW1CfheLLCRCgPX%Z1?YbNOW_B#@K}*b"
    "7nabc*1W6HqfbN-KD)ZAbjCixMedc2j=`C`=mKsm1OodW$xo3iRoCt?rk7oeZ-cg5l3EW|#G;&2;bGklq*w@LDEf>pzSs{Dqw%#4Q)1f%68U<ArK%l"
    "j?yamrPWWilpeEB=~*QHs_P03BBl{|CypvVxuqeGMjfhPH-wVWWfHo4Ci8}=&<M)uP~(I*IGc{9}M5*-aXHa9UR`{bHTQXbMe>o*+(s2<0!&qq`gAG"
    "w!gVd}pO5(A<Mbe<QJ6ZD9@Vhk~YbDV!`f&|&XSSd(5aBf)&p+&fMk-@cTFM-Cuub?|rHADIsH7a6)lr0cx&v5egk+;8HAIJ)}xD>?f?*0a`w#bIG4"
    "5rlT3&y5DS?HlM-+4Obof)sS^5Gb5)G$4~99UF5KH|a4-L=&g9K2Unvby(iEIvZ}a%GS_9X@7Z+k;uPT>MllG8@}sc?bLlW)A%UCGE8ZVd5ApgfIMC"
    "^y`>%VAs6s<{$I~G^`E|FUo3awz11W2)mZOhnFlQl#UE?Hn;@b*$4)sW~B}Yk<qS<rr3P|f@xx?V1xv<9)Qc}w8$WOtWb9r6{^D>NNu0faF3IHjxcC"
    "s5(cVUV<}l#m%Hf<V0~<s9-D3N1-B4kH!aP0S8B|>yx>k!^8k|&4S*45pnstv6QqHII8;HpxI>_cJ|+<VvH221oR`TX>wfHGf6{9-I#0*dOzxgMBo4"
    "8Cs|{&6mHA7PI&7*qqkNoo<4DLc4M;z}R=wAoLWFEc89D-#t=2-$V_t%eE&fz06646(wrl+woM5j3OLGnEd4(KxZ^G&c9>sB_G_ur=WPxq0YoHEDvb"
    "+-aQ{xCAv`OBH`Ov{qvCB(SqRw-oGZpiTdOJwPsT~+%vEgP@oMKuh-VDd6bg}5%IM_av1_KeEpL@K1Q2<-0HuzQ&vm?NUZbi?v81CXsVsRSYq$~3?o"
    ";b)+ryyIS8bluVA^$&d8*0bM%6g7W?6bFwwUBwte3Pz=%OTWddB&HLmdYon##=cdU#G`B;8_5(s<lC|`^Exuu|FnW5}xF<;+C2Tcj_MaeOA>r;y_)d"
    "_G>O)8}AkvWhi=sw>Jn<BL9$jEf$!JAe-R;+g*#W_+X>pH4u|FsId}rop@zQ@W5J*rc5z|)sPcZlcLEQzUOUYwKi${l;J7PpoUqab&lR|=WxP9;jh~"
    "&jV|)U2sKbrfNPMqp?0$5{hbo@j)nH<aD5l$7Q)85$e~I1rQEZ)5+DbEb>lA=f@h&n6%ew}m>sJDr<S5@=&alv;4wk_Sn>6m!4y0;4B#d3<%JJmk1P"
    "4paQ0vm9DBy;lsc&U(kzC(9d@gamFy0iYKAwn<+Y#Z5@Fo)SBb`qEp4g&+GvB2Cj9u>1AGq}^;LoBAg-T@$GU1XtRvn_9}{H<HRsg|CHYOLCC_36i2"
    "-C%3GPs7l(o?>0$0F!q!xI2w7_mZ!p0rvX__^>1}_ClW(T}qV5g3c;@doi<+(sb>12~9b7{6@8E1y2HZeK^c;~TzRvNZs_I%Z0T=-1)&OQd{AXkvfk"
    "y5%*iG`Un^l#wG+MM@!fTCa|(_Eq}oQCM27p_V?Gp@PER<I%(9h?7~9=mAqvT1hIcDl>(6=y+ZtRi3DVI}KSpzXcfir3^9c*9+ed9wnL1^r#;9jL#R"
    "Nfnu=EEQ^%1vLG+g(2~cY);!CR=CK3bJFBNpmx^9Rw%tWe21C%BdC!YQ90Ufsc!@b7@NkEOyN^+b7NacPJPT920*G$K^}d?b!n6te$^y+0Gnm7(L(7"
    "O9oni;e`={|2{JE?`V<A`gAlE;kr~jdufhI9CdqZ7iZ3vzE3X8Yk_mP~6-;&TwbGW`{PhMA8yp|Le_G*E)>fxk(*OZ)SD|rV_m6o$L(hT-SY04jEp%"
    "eu{2z(98P)"
)
